// signature -> delta -> patch against a model: whatever happened to the basis, the patched file is the target.
#include <cmath>
#include <cstring>

#include "base/test_support.h"
#include "job/delta_job.h"
#include "job/patch_job.h"
#include "job/signature_job.h"
#include "signature/signature.h"

namespace deltahop {
namespace {

constexpr Key kKey = {1, 2, 3, 4};

struct RoundTrip {
  Bytes signature;
  Bytes delta;
  double literalBytes = 0;
  double matchedBytes = 0;
  double zeroBytes = 0;
};

// Every second call streams the basis and the target through the jobs' inputs instead of letting them open files.
RoundTrip roundTrip(const TestDirectory& directory, ByteSpan basis, ByteSpan target, uint32_t blockBytes,
                    size_t splitBytes, bool streams) {
  RoundTrip result;
  const std::string basisPath = directory.path("basis");
  const std::string targetPath = directory.path("target");
  const std::string outputPath = directory.path("output");
  // Holes where there can be some: what streams bring is never a hole.
  writeSparseTestFile(basisPath, basis);
  writeSparseTestFile(targetPath, target);
  {
    SignatureJobOptions options;
    if (!streams) options.basisPath = basisPath;
    options.blockBytes = blockBytes;
    options.key = kKey;
    const auto job = makeSignatureJob(options);
    JobRun run(*job, streams ? basis : ByteSpan(), splitBytes);
    DH_REQUIRE_OK(*run.outcome);
    CHECK(run.statistic("basisBytes") == static_cast<double>(basis.size()));
    CHECK(run.statistic("sentBytes") == static_cast<double>(run.output.size()));
    result.signature = std::move(run.output);
  }
  {
    DeltaJobOptions options;
    options.signature = result.signature;
    if (!streams) options.targetPath = targetPath;
    const auto job = makeDeltaJob(options);
    JobRun run(*job, streams ? target : ByteSpan(), splitBytes);
    DH_REQUIRE_OK(*run.outcome);
    result.literalBytes = run.statistic("literalBytes");
    result.matchedBytes = run.statistic("matchedBytes");
    result.zeroBytes = run.statistic("zeroBytes");
    CHECK(result.literalBytes + result.matchedBytes + result.zeroBytes == static_cast<double>(target.size()));
    result.delta = std::move(run.output);
  }
  {
    PatchJobOptions options;
    options.basisPath = basisPath;
    if (!streams) options.outputPath = outputPath;
    const auto job = makePatchJob(options);
    JobRun run(*job, result.delta, splitBytes);
    DH_REQUIRE_OK(*run.outcome);
    const Bytes made = streams ? std::move(run.output) : readTestFile(outputPath);
    REQUIRE(made.size() == target.size());
    REQUIRE(std::equal(made.begin(), made.end(), target.begin()));
  }
  return result;
}

// Content with the traits of real files: random parts, text-like parts, zeros, repeats of itself.
Bytes makeContent(TestRandom& random, size_t length) {
  Bytes content;
  while (content.size() < length) {
    const size_t part = 1 + random.below(std::min<size_t>(length - content.size(), 20000));
    switch (random.below(5)) {
      case 0:
        content.resize(content.size() + part, 0);
        break;
      case 1:
        content.resize(content.size() + part, static_cast<uint8_t>(random.next()));
        break;
      case 2:
        if (!content.empty()) {
          const size_t from = random.below(content.size());
          const Bytes repeat(content.begin() + static_cast<ptrdiff_t>(from),
                             content.begin() + static_cast<ptrdiff_t>(std::min(from + part, content.size())));
          content.insert(content.end(), repeat.begin(), repeat.end());
        }
        break;
      default: {
        const Bytes fresh = random.bytes(part);
        content.insert(content.end(), fresh.begin(), fresh.end());
      }
    }
  }
  content.resize(length);
  return content;
}

Bytes edit(TestRandom& random, Bytes content) {
  const auto at = [&] { return content.begin() + static_cast<ptrdiff_t>(random.below(content.size() + 1)); };
  for (uint64_t edits = random.below(6); edits > 0; --edits) {
    const auto from = at();
    const auto to = from + static_cast<ptrdiff_t>(random.below(static_cast<uint64_t>(content.end() - from) + 1));
    switch (random.below(7)) {
      case 0: {  // insertion
        const Bytes inserted = random.bytes(random.below(3000));
        content.insert(from, inserted.begin(), inserted.end());
        break;
      }
      case 1:  // deletion
        content.erase(from, std::min(to, from + 5000));
        break;
      case 2: {  // overwrite
        for (auto byte = from; byte != std::min(to, from + 2000); ++byte) *byte = static_cast<uint8_t>(random.next());
        break;
      }
      case 3:  // move
        std::rotate(from, from + (to - from) / 2, to);
        break;
      case 4:  // truncation
        if (random.below(3) == 0) content.erase(from, content.end());
        break;
      case 5:  // zeroed
        std::fill(from, std::min(to, from + 9000), uint8_t{0});
        break;
      case 6:  // one byte
        if (from != content.end()) *from ^= 0x40;
        break;
    }
  }
  return content;
}

TEST_CASE("patched target equals the target, whatever was edited") {
  const TestDirectory directory;
  const size_t splits[] = {1, 2, 3, 7, 511, 512, 4096, 65536, 1 << 20};
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    TestRandom random(seed);
    const size_t split = splits[seed % std::size(splits)];
    const size_t length = random.below(split < 8 ? 20000 : 200000);
    const Bytes basis = makeContent(random, length);
    const Bytes target = edit(random, basis);
    const uint32_t blockBytes = seed % 3 == 0 ? 0 : 512u << random.below(5);
    roundTrip(directory, basis, target, blockBytes, split, seed % 2 == 0);
    // Only the three files: nothing private is left behind.
    CHECK(directory.entryCount() <= 3);
  }
}

TEST_CASE("sizes around nothing, one byte and one block") {
  const TestDirectory directory;
  TestRandom random(7);
  const Bytes content = random.bytes(4200);
  for (const size_t basisBytes : {0, 1, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097}) {
    for (const size_t targetBytes : {0, 1, 511, 512, 513, 1024, 4095, 4096, 4097}) {
      CAPTURE(basisBytes);
      CAPTURE(targetBytes);
      const RoundTrip result = roundTrip(directory, ByteSpan(content).first(basisBytes),
                                         ByteSpan(content).first(targetBytes), 512, 1000, false);
      // Common whole blocks are found; equal files wholly, short last block included.
      if (basisBytes == targetBytes) CHECK(result.literalBytes == 0);
      CHECK(result.matchedBytes >= static_cast<double>(std::min(basisBytes, targetBytes) / 512 * 512));
    }
  }
}

TEST_CASE("one byte in front costs one byte of literals") {
  const TestDirectory directory;
  TestRandom random(11);
  const Bytes basis = random.bytes(8 << 20);
  Bytes target = {42};
  target.insert(target.end(), basis.begin(), basis.end());
  for (const uint32_t blockBytes : {512u, 4096u, 65536u}) {
    const RoundTrip result = roundTrip(directory, basis, target, blockBytes, 65536, false);
    CHECK(result.literalBytes == 1);
    CHECK(result.delta.size() < 200);
  }
}

TEST_CASE("an edit costs about a block, wherever it is") {
  const TestDirectory directory;
  TestRandom random(12);
  const Bytes basis = random.bytes(1 << 20);
  for (int i = 0; i < 20; ++i) {
    Bytes target = basis;
    const size_t at = random.below(target.size());
    CAPTURE(at);
    switch (i % 3) {
      case 0:
        target[at] ^= 1;
        break;
      case 1:
        target.insert(target.begin() + static_cast<ptrdiff_t>(at), uint8_t{9});
        break;
      default:
        target.erase(target.begin() + static_cast<ptrdiff_t>(at));
    }
    const RoundTrip result = roundTrip(directory, basis, target, 4096, 100000, i % 2 == 0);
    // What is left of a block that was cut, and at the end of a shifted file what no block of the basis ends with.
    CHECK(result.literalBytes <= 2 * 4096);
  }
}

TEST_CASE("moved content is found") {
  const TestDirectory directory;
  TestRandom random(13);
  Bytes target;
  const Bytes basis = random.bytes(1 << 20);
  target.insert(target.end(), basis.begin() + 700001, basis.end());
  target.insert(target.end(), basis.begin() + 300000, basis.begin() + 700001);
  target.insert(target.end(), basis.begin(), basis.begin() + 300000);
  const RoundTrip result = roundTrip(directory, basis, target, 1024, 65536, true);
  CHECK(result.literalBytes <= 6 * 1024);
}

TEST_CASE("pages that begin or end with zeros are still found behind holes") {
  const TestDirectory directory;
  TestRandom random(14);
  // Each page: zeros, some data, zeros; every third page all zero.
  Bytes basis;
  for (int page = 0; page < 300; ++page) {
    const size_t before = page % 3 == 0 ? 4096 : random.below(4000);
    basis.resize(basis.size() + before, 0);
    const Bytes data = random.bytes(page % 3 == 0 ? 0 : 1 + random.below(4096 - before));
    basis.insert(basis.end(), data.begin(), data.end());
    basis.resize((basis.size() + 4095) / 4096 * 4096, 0);
  }
  const RoundTrip same = roundTrip(directory, basis, basis, 4096, 65536, false);
  CHECK(same.literalBytes == 0);
  // Shifted by a page, and by a page that is not zero: the diagonal of the last copy leads on.
  Bytes shifted = random.bytes(4096);
  shifted.insert(shifted.end(), basis.begin(), basis.end());
  const RoundTrip moved = roundTrip(directory, basis, shifted, 4096, 65536, false);
  CHECK(moved.literalBytes <= 3 * 4096);
}

TEST_CASE("all blocks alike: linear, and all found") {
  const TestDirectory directory;
  const Bytes basis(16 << 20, 0x55);
  Bytes target(basis.begin(), basis.end() - 100);
  target.insert(target.begin(), {1, 2, 3});
  const RoundTrip result = roundTrip(directory, basis, target, 512, 1 << 20, false);
  CHECK(result.literalBytes < 2 * 512);
  // A short pattern, at a phase that no block of the basis has: the worst for candidate lists.
  Bytes pattern;
  while (pattern.size() < (8u << 20)) pattern.insert(pattern.end(), {1, 2, 3, 4, 5, 6, 7});
  Bytes phase(pattern.begin() + 3, pattern.end());
  const RoundTrip rotated = roundTrip(directory, pattern, phase, 512, 1 << 20, false);
  CHECK(rotated.literalBytes < 2048);
}

}  // namespace
}  // namespace deltahop
