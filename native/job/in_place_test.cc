// Files that are patched where they lie: the same inode, old until all has come, and whatever was cut or killed,
// finished by the next transfer.
#include <fcntl.h>
#include <sys/file.h>

#include "base/test_support.h"
#include "codec/in_place_output.h"
#include "hash/blake3.h"
#include "job/transfer_test_support.h"
#include "tree/tree_test_support.h"

namespace deltahop {
namespace {

constexpr size_t kImageBytes = 1 << 20;

struct InPlaceFixture {
  InPlaceFixture() : from(directory.path("from")), to(directory.path("to")) {
    ::mkdir(from.c_str(), 0755);
    ::mkdir(to.c_str(), 0755);
  }
  SendJobOptions send() const {
    SendJobOptions options;
    options.rootPath = from;
    return options;
  }
  ReceiveJobOptions receive() const {
    ReceiveJobOptions options;
    options.rootPath = to;
    options.inPlace = true;
    return options;
  }
  struct stat status(const std::string& path) const {
    struct stat status{};
    REQUIRE(::lstat(path.c_str(), &status) == 0);
    return status;
  }
  std::string journalName() const {
    const std::string path = "image";
    const Digest digest = blake3({reinterpret_cast<const uint8_t*>(path.data()), path.size()});
    return to + "/.deltahop-partial/" + toHex(ByteSpan(digest).first(16)) + ".7.journal";
  }
  // What a receiver leaves that was killed right after it had sealed: 100 bytes at 5000 are to be 0xEE.
  void leaveSealedJournal() const {
    ::mkdir((to + "/.deltahop-partial").c_str(), 0700);
    File journal = openTestFile(journalName());
    FileStorage storage(journal);
    PatchJournalWriter writer(storage);
    const auto target = patchTarget(openTestFile(to + "/image"), "image");
    DH_REQUIRE_OK(target);
    DH_REQUIRE_OK(writer.begin(target.value()));
    DH_REQUIRE_OK(writer.write(5000, Bytes(100, 0xEE)));
    DH_REQUIRE_OK(writer.seal(kImageBytes));
  }

  TestDirectory directory;
  std::string from;
  std::string to;
};

Bytes edited(Bytes content, TestRandom& random) {
  for (int i = 0; i < 20; ++i) {
    const uint64_t at = random.below(content.size());
    const size_t length = std::min<size_t>(random.below(20'000), content.size() - at);
    const auto begin = content.begin() + static_cast<ptrdiff_t>(at);
    switch (random.below(5)) {
      case 0:
        std::fill_n(begin, length, uint8_t{0});
        break;
      case 1: {
        const Bytes inserted = random.bytes(length);
        content.insert(begin, inserted.begin(), inserted.end());
        break;
      }
      case 2:
        content.erase(begin, begin + static_cast<ptrdiff_t>(length));
        break;
      default: {
        const Bytes changed = random.bytes(length);
        std::copy(changed.begin(), changed.end(), begin);
      }
    }
  }
  return content;
}

TEST_CASE_FIXTURE(InPlaceFixture, "larger files keep their inode, whatever became of their content") {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    TestRandom random(seed);
    Bytes content = random.bytes(kImageBytes);
    std::fill_n(content.begin() + 500'000, 300'000, uint8_t{0});
    writeSparseTestFile(to + "/image", content);
    writeTestFile(to + "/small", random.bytes(1000));
    const auto image = status(to + "/image").st_ino;
    content = edited(content, random);
    if (seed == 2) content.resize(content.size() / 2);
    if (seed == 3) content.insert(content.end(), 200'000, 0);
    writeSparseTestFile(from + "/image", content);
    writeTestFile(from + "/small", random.bytes(1200));
    TransferRun run(send(), receive());
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
    CHECK(status(to + "/image").st_ino == image);
    CHECK(run.receiver.statistic("patchedFiles") == 1);
    // Holes of 64 KiB and more are holes here too.
    CHECK(status(to + "/image").st_blocks <= status(from + "/image").st_blocks + 20 * 48);
  }
}

TEST_CASE_FIXTURE(InPlaceFixture, "a file with a further name is replaced: that name may be another file's") {
  TestRandom random(1);
  const Bytes before = random.bytes(kImageBytes);
  writeTestFile(to + "/image", before);
  REQUIRE(::link((to + "/image").c_str(), (directory.path("elsewhere")).c_str()) == 0);
  writeTestFile(from + "/image", edited(before, random));
  TransferRun run(send(), receive());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  CHECK(readTestFile(directory.path("elsewhere")) == before);
  CHECK(run.receiver.statistic("patchedFiles") == 0);
}

TEST_CASE_FIXTURE(InPlaceFixture, "cut anywhere, the file is the old one, and the next transfer goes on from there") {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    CAPTURE(seed);
    TestRandom random(seed);
    const Bytes before = random.bytes(kImageBytes);
    writeTestFile(to + "/image", before);
    // Older than what comes: two writes within a tick of the clock would look alike.
    setMtime(to + "/image", 1'000'000'000, 0);
    Bytes after = before;
    // All but every fourth page.
    for (size_t at = 0; at < after.size(); at += 4096) {
      if (at / 4096 % 4 != 0) std::copy_n(random.bytes(4096).begin(), 4096, after.begin() + static_cast<ptrdiff_t>(at));
    }
    writeTestFile(from + "/image", after);
    uint64_t total = 0;
    int cuts = 0;
    for (;; ++cuts) {
      PipeOptions cut;
      cut.pieceBytes = 10'000;
      cut.cutAfterBytes = cuts < 4 ? 150'000 + random.below(150'000) : UINT64_MAX;
      TransferRun run(send(), receive(), cut);
      total += run.downBytes;
      if (run.ok()) break;
      CHECK(readTestFile(to + "/image") == before);
    }
    CHECK(cuts > 0);
    requireSameTree(from, to);
    // What is lost with each cut is the block in flight.
    CHECK(total < after.size() + static_cast<uint64_t>(cuts) * 320'000);
  }
}

TEST_CASE_FIXTURE(InPlaceFixture, "what a killed receiver had sealed is finished, into whatever tree comes next") {
  TestRandom random(1);
  Bytes content = random.bytes(kImageBytes);
  writeTestFile(to + "/image", content);
  writeTestFile(from + "/other", Bytes{1});
  leaveSealedJournal();
  // A transfer that is not about this file at all.
  ReceiveJobOptions keeping = receive();
  keeping.deleteOthers = false;
  TransferRun run(send(), keeping);
  DH_REQUIRE_OK(run.receiver.outcome());
  std::fill_n(content.begin() + 5000, 100, uint8_t{0xEE});
  CHECK(readTestFile(to + "/image") == content);
  CHECK(run.receiver.statistic("finishedPatches") == 1);
  CHECK(!std::filesystem::exists(to + "/.deltahop-partial"));
}

TEST_CASE_FIXTURE(InPlaceFixture, "a file that somebody else has changed or replaced since is not patched") {
  TestRandom random(2);
  const Bytes content = random.bytes(kImageBytes);
  for (const bool replaced : {false, true}) {
    CAPTURE(replaced);
    writeTestFile(to + "/image", content);
    writeTestFile(from + "/other", Bytes{1});
    leaveSealedJournal();
    if (replaced) {
      writeTestFile(to + "/image.new", content);
      REQUIRE(::rename((to + "/image.new").c_str(), (to + "/image").c_str()) == 0);
    } else {
      const struct timespec later[2] = {{0, UTIME_OMIT}, {status(journalName()).st_mtim.tv_sec + 61, 0}};
      REQUIRE(::utimensat(AT_FDCWD, (to + "/image").c_str(), later, 0) == 0);
    }
    ReceiveJobOptions keeping = receive();
    keeping.deleteOthers = false;
    TransferRun run(send(), keeping);
    DH_REQUIRE_OK(run.receiver.outcome());
    CHECK(readTestFile(to + "/image") == content);
    CHECK(run.receiver.statistic("finishedPatches") == 0);
    REQUIRE(run.receiver.outcome().value().notes.size() == 1);
    CHECK(!std::filesystem::exists(to + "/.deltahop-partial"));
  }
}

TEST_CASE_FIXTURE(InPlaceFixture, "a second receiver waits for the first to be gone") {
  writeTestFile(from + "/file", Bytes{1, 2, 3});
  File held = File::open(AT_FDCWD, to, O_RDONLY | O_DIRECTORY).value();
  REQUIRE(::flock(held.fd(), LOCK_EX) == 0);
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    CHECK(!std::filesystem::exists(to + "/file"));
    held.close();
  });
  TransferRun run(send(), receive());
  other.join();
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
}

TEST_CASE_FIXTURE(InPlaceFixture, "more deletions than allowed are none") {
  writeTestFile(from + "/file", Bytes{1});
  for (const char* name : {"a", "b", "d", "d/c"}) {
    if (std::string(name) == "d") {
      ::mkdir((to + "/d").c_str(), 0755);
    } else {
      writeTestFile(to + "/" + name, Bytes{1});
    }
  }
  ReceiveJobOptions few = receive();
  few.maxDeletes = 3;
  TransferRun refused(send(), few);
  DH_REQUIRE_OK(refused.receiver.outcome());
  CHECK(refused.receiver.statistic("deletesRefused") == 4);
  CHECK(refused.receiver.statistic("deletedEntries") == 0);
  CHECK(std::filesystem::exists(to + "/d/c"));
  CHECK(std::filesystem::exists(to + "/file"));
  few.maxDeletes = 4;
  TransferRun done(send(), few);
  DH_REQUIRE_OK(done.receiver.outcome());
  CHECK(done.receiver.statistic("deletedEntries") == 4);
  requireSameTree(from, to);
}

}  // namespace
}  // namespace deltahop
