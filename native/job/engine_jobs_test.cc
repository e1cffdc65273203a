// What the three jobs promise beyond the right result: errors, cleanliness, memory, cancelling, fixed bytes.
#include <sys/resource.h>
#include <sys/stat.h>

#include <thread>

#include "base/test_support.h"
#include "codec/delta_stream.h"
#include "hash/content_digest.h"
#include "job/byte_queue.h"
#include "job/delta_job.h"
#include "job/patch_job.h"
#include "job/signature_job.h"

namespace deltahop {
namespace {

constexpr Key kKey = {1, 2, 3, 4};

Bytes makeSignature(const std::string& basisPath, uint32_t blockBytes = 0) {
  const auto job = makeSignatureJob({basisPath, blockBytes, kKey});
  JobRun run(*job, {});
  DH_REQUIRE_OK(*run.outcome);
  return std::move(run.output);
}

Bytes makeDelta(const Bytes& signature, const std::string& targetPath) {
  const auto job = makeDeltaJob({signature, targetPath, kDefaultZstdLevel});
  JobRun run(*job, {});
  DH_REQUIRE_OK(*run.outcome);
  return std::move(run.output);
}

Result<JobReport> patch(const std::string& basisPath, const std::string& outputPath, ByteSpan delta, size_t split) {
  const auto job = makePatchJob({basisPath, outputPath});
  return *JobRun(*job, delta, split).outcome;
}

TEST_CASE("patch: cut, damaged and foreign deltas give an error and change no file") {
  const TestDirectory directory;
  TestRandom random(1);
  const std::string basisPath = directory.path("basis");
  const std::string targetPath = directory.path("target");
  const std::string outputPath = directory.path("output");
  const Bytes basis = random.bytes(50000);
  Bytes target = basis;
  target.insert(target.begin() + 20000, {1, 2, 3});
  writeTestFile(basisPath, basis);
  writeTestFile(targetPath, target);
  writeTestFile(outputPath, Bytes{7});
  const Bytes delta = makeDelta(makeSignature(basisPath, 512), targetPath);
  const auto refused = [&](ByteSpan stream, size_t split) {
    const auto outcome = patch(basisPath, outputPath, stream, split);
    REQUIRE(!outcome.ok());
    CHECK(!outcome.error().context.empty());
    REQUIRE(readTestFile(outputPath) == Bytes{7});
    REQUIRE(directory.entryCount() == 3);
    return outcome.error().code;
  };
  for (size_t cut = 0; cut < delta.size(); cut += 1 + delta.size() / 60) {
    CHECK(refused(ByteSpan(delta).first(cut), 1 + cut % 9) == Code::kTruncated);
  }
  for (int i = 0; i < 150; ++i) {
    Bytes damaged = delta;
    damaged[random.below(damaged.size())] ^= static_cast<uint8_t>(1u << random.below(8));
    refused(damaged, 1000);
  }
  for (int i = 0; i < 50; ++i) refused(random.bytes(random.below(2000)), 7);
  Bytes longer = delta;
  longer.push_back(0);
  CHECK(refused(longer, 4096) == Code::kCorrupt);
  // A delta for another basis: of another size, and of the same.
  writeTestFile(basisPath, random.bytes(50001));
  CHECK(refused(delta, 4096) == Code::kMismatch);
  writeTestFile(basisPath, random.bytes(50000));
  CHECK(refused(delta, 4096) == Code::kMismatch);
  // The right one still works, over the basis itself too.
  writeTestFile(basisPath, basis);
  DH_REQUIRE_OK(patch(basisPath, basisPath, delta, 3));
  CHECK(readTestFile(basisPath) == target);
}

TEST_CASE("delta: a cut or damaged signature gives an error") {
  const TestDirectory directory;
  TestRandom random(2);
  writeTestFile(directory.path("basis"), random.bytes(30000));
  const Bytes signature = makeSignature(directory.path("basis"));
  const auto code = [&](Bytes bytes) {
    const auto job = makeDeltaJob({std::move(bytes), directory.path("basis"), 3});
    JobRun run(*job, {});
    REQUIRE(!run.outcome->ok());
    return run.outcome->error().code;
  };
  CHECK(code({}) == Code::kTruncated);
  CHECK(code(Bytes(signature.begin(), signature.end() - 1)) == Code::kTruncated);
  Bytes damaged = signature;
  damaged[100] ^= 1;
  CHECK(code(damaged) == Code::kCorrupt);
  CHECK(code(random.bytes(100)) == Code::kCorrupt);
}

TEST_CASE("jobs name what they cannot open") {
  const TestDirectory directory;
  const std::string none = directory.path("none");
  const auto code = [](std::unique_ptr<Job> job) {
    JobRun run(*job, {});
    REQUIRE(!run.outcome->ok());
    return run.outcome->error().code;
  };
  CHECK(code(makeSignatureJob({none, 0, kKey})) == Code::kNotFound);
  CHECK(code(makeSignatureJob({directory.path(""), 0, kKey})) == Code::kUnsupported);
  CHECK(code(makeSignatureJob({std::nullopt, 1000, kKey})) == Code::kInvalidArgument);
  CHECK(code(makePatchJob({none, none})) == Code::kNotFound);
  writeTestFile(directory.path("basis"), Bytes{1});
  CHECK(code(makePatchJob({directory.path("basis"), directory.path("no/such/place")})) == Code::kNotFound);
  CHECK(code(makePatchJob({directory.path("basis"), none})) == Code::kTruncated);  // no delta at all
  CHECK(code(makeDeltaJob({makeSignature(directory.path("basis")), none, 3})) == Code::kNotFound);
  CHECK(code(makeDeltaJob({makeSignature(directory.path("basis")), directory.path("basis"), 77})) ==
        Code::kInvalidArgument);
}

uint64_t peakRssBytes() {
  struct rusage usage;
  REQUIRE(::getrusage(RUSAGE_SELF, &usage) == 0);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

TEST_CASE("a 16 GiB sparse file: bounded memory, holes kept") {
  const TestDirectory directory;
  TestRandom random(3);
  const uint64_t before = peakRssBytes();
  for (const char* name : {"basis", "target"}) {
    File file = openTestFile(directory.path(name));
    DH_REQUIRE_OK(file.truncate(uint64_t{16} << 30));
    const Bytes data = random.bytes(1 << 20);
    // The same places with other content, and one place with the same.
    DH_REQUIRE_OK(file.writeAt((uint64_t{5} << 30) + 4096, data));
    DH_REQUIRE_OK(file.writeAt((uint64_t{11} << 30) + 12345, Bytes(3 << 20, 9)));
    DH_REQUIRE_OK(file.writeAt((uint64_t{16} << 30) - 10, Bytes(10, 1)));
  }
  const Bytes delta = makeDelta(makeSignature(directory.path("basis")), directory.path("target"));
  CHECK(delta.size() < (1 << 20) + 200000);
  DH_REQUIRE_OK(patch(directory.path("basis"), directory.path("output"), delta, 65536));
  const File target = openTestFile(directory.path("target"));
  const File output = openTestFile(directory.path("output"));
  CHECK(contentDigest(target).value() == contentDigest(output).value());
  CHECK(output.stat().value().st_blocks <= target.stat().value().st_blocks + 64);
  // Sanitizers multiply memory; they run on the same code as a plain build, where the bound is far lower.
  CHECK(peakRssBytes() - before < (uint64_t{256} << 20));
}

TEST_CASE("cancel ends a job that waits for input, and one that waits for its reader") {
  struct Waiting : public JobListener {
    void onOutput() override {}
    void onDrain() override {}
    void onProgress(const Progress&) override {}
    void onFinished(Result<JobReport> finished) override {
      const std::lock_guard lock(mutex);
      outcome.emplace(std::move(finished));
      changed.notify_all();
    }
    Code wait() {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return outcome.has_value(); });
      return outcome->ok() ? Code::kIo : outcome->error().code;
    }
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<Result<JobReport>> outcome;
  };
  const TestDirectory directory;
  TestRandom random(4);
  {
    Waiting listener;
    const auto job = makeSignatureJob({std::nullopt, 512, kKey});
    job->start(listener);
    job->writeInput(random.bytes(100000));
    job->cancel();
    CHECK(listener.wait() == Code::kCancelled);
    CHECK(job->outputEnded());
    CHECK(job->writeInput(random.bytes(10)));  // taken by nobody, and no reason to wait
  }
  writeTestFile(directory.path("basis"), Bytes{1});
  writeTestFile(directory.path("target"), random.bytes(20 << 20));
  Waiting listener;
  const auto job = makeDeltaJob({makeSignature(directory.path("basis")), directory.path("target"), 1});
  job->start(listener);
  // 20 MiB do not fit the output queue: sooner or later it waits; destroying it must not.
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
}

TEST_CASE("byte queue: order, marks and ends") {
  ByteQueue queue(10);
  CHECK(queue.push(Bytes(4)));
  CHECK(!queue.push(Bytes(6)));
  CHECK(!queue.takeDrained());
  CHECK(queue.tryPop(100).size() == 10);
  CHECK(queue.takeDrained());
  CHECK(!queue.takeDrained());
  std::thread writer([&] {
    for (uint8_t i = 0; i < 100; ++i) CHECK(queue.pushWaiting(Bytes(3, i)));
    queue.close();
  });
  for (uint8_t i = 0; i < 100; ++i) {
    const auto buffer = queue.pop();
    REQUIRE(buffer.has_value());
    REQUIRE(*buffer == Bytes(3, i));
  }
  CHECK(!queue.pop().has_value());
  CHECK(queue.isEnded());
  writer.join();
  CHECK(!queue.pushWaiting(Bytes(1)));
}

// Golden files: an older or newer engine must read and make the very same bytes. DELTAHOP_GOLDEN=write renews them,
// which is a change of the format's version.
TEST_CASE("golden signature and delta") {
  const std::string golden = DELTAHOP_GOLDEN_DIR;
  const TestDirectory directory;
  // Arithmetic any language can repeat: byte i is the top byte of i * 2654435761 mod 2^32.
  Bytes basis(20000);
  for (size_t i = 0; i < basis.size(); ++i)
    basis[i] = static_cast<uint8_t>(static_cast<uint32_t>(i) * 2654435761u >> 24);
  std::fill(basis.begin() + 5000, basis.begin() + 9000, uint8_t{0});
  Bytes target(basis.begin() + 512, basis.end());
  target.insert(target.begin() + 1000, {'d', 'e', 'l', 't', 'a'});
  target.resize(target.size() + 3000, 0);
  target.insert(target.end(), 1200, 'z');
  Key key;
  for (size_t i = 0; i < key.size(); ++i) key[i] = static_cast<uint8_t>(i);

  writeTestFile(directory.path("basis"), basis);
  writeTestFile(directory.path("target"), target);
  const auto job = makeSignatureJob({directory.path("basis"), 512, key});
  JobRun run(*job, {});
  DH_REQUIRE_OK(*run.outcome);
  const Bytes delta = makeDelta(run.output, directory.path("target"));
  const char* mode = ::getenv("DELTAHOP_GOLDEN");
  if (mode != nullptr && std::string(mode) == "write") {
    writeTestFile(golden + "/signature_basic.dhsig", run.output);
    writeTestFile(golden + "/delta_basic.dhdelta", delta);
  }
  CHECK(run.output == readTestFile(golden + "/signature_basic.dhsig"));
  CHECK(delta == readTestFile(golden + "/delta_basic.dhdelta"));
  DH_REQUIRE_OK(
      patch(directory.path("basis"), directory.path("output"), readTestFile(golden + "/delta_basic.dhdelta"), 11));
  CHECK(readTestFile(directory.path("output")) == target);
}

}  // namespace
}  // namespace deltahop
