// A tree's way to a receiver that holds what the sender last sent: little goes over, and whatever does not fit only
// costs.
#include <cstring>

#include "base/test_support.h"
#include "job/transfer_test_support.h"
#include "tree/record.h"
#include "tree/tree_test_support.h"

namespace deltahop {
namespace {

// Copies with new inodes, as the next dump has; the old directory keeps its own.
void copyTree(const std::string& from, const std::string& to) {
  REQUIRE(std::system(("cp -a '" + from + "' '" + to + "'").c_str()) == 0);
}

struct SharedFixture {
  SharedFixture() : from(directory.path("from")), old(directory.path("old")), to(directory.path("to")) {
    ::mkdir(from.c_str(), 0755);
  }
  SendJobOptions send(bool verify, bool withBasis = true) const {
    SendJobOptions options;
    options.rootPath = from;
    options.verify = verify;
    options.recordPath = directory.path("sender-record");
    if (withBasis) options.basis = {old, directory.path("sender-record")};
    return options;
  }
  ReceiveJobOptions receive(bool durable = false) const {
    ReceiveJobOptions options;
    options.rootPath = to;
    options.durable = durable;
    options.recordPath = directory.path("receiver-record");
    return options;
  }
  void begin() {
    TransferRun run(send(false, false), receive());
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
  }
  // What lies at `from` becomes the basis, a copy of it the next tree.
  void turn() {
    std::filesystem::remove_all(old);
    REQUIRE(::rename(from.c_str(), old.c_str()) == 0);
    copyTree(old, from);
  }

  TestDirectory directory;
  std::string from;
  std::string old;
  std::string to;
};

void overwrite(const std::string& path, uint64_t offset, ByteSpan data) {
  File file = openTestFile(path);
  DH_REQUIRE_OK(file.writeAt(offset, data));
}

TEST_CASE_FIXTURE(SharedFixture, "changes against a shared basis cost little more than themselves") {
  TestRandom random(1);
  ::mkdir((from + "/sub").c_str(), 0755);
  writeTestFile(from + "/pages-1.img", random.bytes(8 << 20));
  writeTestFile(from + "/sub/text", random.bytes(700'001));
  writeTestFile(from + "/sub/large", random.bytes((9 << 20) + 77));
  for (int i = 0; i < 200; ++i) writeTestFile(from + "/sub/small" + std::to_string(i), random.bytes(1000));
  begin();
  for (const bool verify : {false, true}) {
    CAPTURE(verify);
    turn();
    // A page goes in, and with it everything moves; one page in fifty changes in one word.
    Bytes pages = readTestFile(from + "/pages-1.img");
    const Bytes page = random.bytes(4096);
    pages.insert(pages.begin() + (1 << 20), page.begin(), page.end());
    for (size_t at = 0; at < pages.size(); at += 50 * 4096) std::memcpy(pages.data() + at + 80, page.data() + 8, 8);
    writeTestFile(from + "/pages-1.img", pages);
    Bytes text = readTestFile(from + "/sub/text");
    text.insert(text.begin() + 300'000, {'n', 'e', 'w'});
    writeTestFile(from + "/sub/text", text);
    Bytes large = readTestFile(from + "/sub/large");
    large.insert(large.begin() + 5, 0x55);
    writeTestFile(from + "/sub/large", large);
    for (int i = 0; i < 100; ++i) overwrite(from + "/sub/small" + std::to_string(i), 500, random.bytes(3));
    writeTestFile(from + "/fresh", random.bytes(2000));
    TransferRun run(send(verify), receive(verify));
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
    CHECK(run.sender.statistic("basisRefused") == 0);
    CHECK(run.sender.statistic("identityBytes") >= (1 << 20) - 10 * 4096);
    CHECK(run.sender.statistic("sharedMatchedBytes") > 6 << 20);
    CHECK(run.sender.statistic("signatureBytes") == 0);
    CHECK(run.receiver.statistic("repairedFiles") == 0);
    CHECK(run.bytes() < 20'000);
    ::unlink((from + "/fresh").c_str());
    TransferRun back(send(verify, false), receive());
    REQUIRE(back.ok());
  }
}

TEST_CASE_FIXTURE(SharedFixture, "files that moved are not sent, though a shared basis has no former self of them") {
  TestRandom random(7);
  ::mkdir((from + "/sub").c_str(), 0755);
  for (int i = 0; i < 50; ++i) writeTestFile(from + "/sub/file" + std::to_string(i), random.bytes(20'000));
  writeTestFile(from + "/sub/image", random.bytes(3 << 20));
  writeTestFile(from + "/sub/look-alike", random.bytes(30'000));
  begin();
  turn();
  std::filesystem::rename(from + "/sub", from + "/other");
  // Its name and size are those of an old file, its bytes are not.
  writeTestFile(from + "/other/look-alike", random.bytes(30'000));
  TransferRun run(send(false), receive());
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  CHECK(run.sender.statistic("basisRefused") == 0);
  CHECK(run.bytes() < 30'000 + 10'000);
}

// A new file that fills the sender's queue until its words are let through: by then it has heard the receiver.
constexpr size_t kQueueFiller = 8 << 20;
constexpr std::chrono::milliseconds kUntilHeard{500};

// The counts of what says of how many files that they are the same, and of contents beside old ones.
struct SameCount {
  size_t messages = 0;
  size_t beside = 0;
  std::function<void(uint64_t, Bytes&)> counted(std::function<void(Message)> more = {}) {
    return watch([this, more](Message type, std::span<uint8_t>) {
      messages += type == Message::kSame;
      beside += type == Message::kSmallChanges || type == Message::kPart;
      if (more) more(type);
    });
  }
};

TEST_CASE_FIXTURE(SharedFixture, "files of which only the times are new stay, and nothing of them is sent") {
  TestRandom random(8);
  for (int i = 0; i < 100; ++i) writeTestFile(from + "/small" + std::to_string(i), random.bytes(1000));
  writeTestFile(from + "/medium", random.bytes(200'001));
  writeTestFile(from + "/large", random.bytes((9 << 20) + 77));
  writeTestFile(from + "/two-names", random.bytes(1000));
  REQUIRE(::link((from + "/two-names").c_str(), (from + "/two-names-more").c_str()) == 0);
  begin();
  const auto inodeOf = [&](const char* name) {
    struct stat status{};
    REQUIRE(::stat((to + name).c_str(), &status) == 0);
    return status.st_ino;
  };
  const auto touchAll = [&](int64_t seconds) {
    turn();
    for (int i = 0; i < 100; ++i) setMtime(from + "/small" + std::to_string(i), seconds + i, 5);
    for (const char* name : {"/medium", "/large", "/two-names"}) setMtime(from + name, seconds, 0);
    overwrite(from + "/small50", 500, random.bytes(3));
    setMtime(from + "/small50", seconds, 0);
    writeTestFile(from + "/a-new", random.bytes(kQueueFiller));
  };
  const ino_t small = inodeOf("/small7");
  const ino_t large = inodeOf("/large");
  touchAll(1000);
  SameCount same;
  PipeOptions down;
  down.startAfter = kUntilHeard;
  down.tamper = same.counted();
  TransferRun run(send(false), receive(), down);
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  requireSameTree(from, to);
  CHECK(run.sender.statistic("basisRefused") == 0);
  CHECK(run.sender.statistic("signatureBytes") == 0);
  CHECK(same.messages == 1);
  CHECK(same.beside == 1);  // those that did change, and one that cannot get other times alone
  CHECK(run.bytes() < kQueueFiller + kQueueFiller / 50 + 4000);
  CHECK(inodeOf("/small7") == small);
  CHECK(inodeOf("/large") == large);
  CHECK(inodeOf("/small50") != small);
  // What was kept is known the next time.
  const auto record = readRecord(directory.path("receiver-record"));
  REQUIRE(record.has_value());
  CHECK(hasAllDigests(record->tree));

  SUBCASE("a file that was written meanwhile is asked for") {
    touchAll(2000);
    std::atomic<bool> held{false};
    PipeOptions up;
    up.tamper = watch([&](Message type, std::span<uint8_t>) {
      if (type == Message::kBasisHeld) held = true;
    });
    bool written = false;
    down.tamper = same.counted([&](Message type) {
      if (type != Message::kSame || written) return;
      for (int turns = 0; !held && turns < 2000; ++turns) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      written = true;
      overwrite(to + "/small7", 10, random.bytes(5));
    });
    TransferRun late(send(false), receive(), down, up);
    DH_REQUIRE_OK(late.sender.outcome());
    DH_REQUIRE_OK(late.receiver.outcome());
    CHECK(written);
    requireSameTree(from, to);
    CHECK(late.sender.statistic("basisRefused") == 0);
    CHECK(inodeOf("/small7") != small);
    CHECK(inodeOf("/large") == large);
  }
  SUBCASE("what is said of them wrongly is not believed") {
    touchAll(2000);
    down.tamper = watch([&](Message type, std::span<uint8_t> payload) {
      if (type == Message::kSame) payload[3] ^= 1;
    });
    TransferRun wrong(send(false), receive(), down);
    DH_REQUIRE_OK(wrong.sender.outcome());
    DH_REQUIRE_OK(wrong.receiver.outcome());
    requireSameTree(from, to);
  }
  SUBCASE("a receiver of version 3 is not told") {
    touchAll(2000);
    PipeOptions up;
    up.tamper = watch([&](Message type, std::span<uint8_t> payload) {
      if (type == Message::kReceiverHello) payload[6] = 3;
    });
    SameCount none;
    down.tamper = none.counted();
    TransferRun old(send(false), receive(), down, up);
    DH_REQUIRE_OK(old.sender.outcome());
    DH_REQUIRE_OK(old.receiver.outcome());
    requireSameTree(from, to);
    CHECK(none.messages == 0);
    CHECK(none.beside > 0);
  }
  SUBCASE("a receiver that refuses the basis does not hear of them") {
    touchAll(2000);
    overwrite(to + "/medium", 10, random.bytes(5));
    TransferRun refused(send(false), receive(), down);
    DH_REQUIRE_OK(refused.sender.outcome());
    DH_REQUIRE_OK(refused.receiver.outcome());
    requireSameTree(from, to);
    CHECK(refused.sender.statistic("basisRefused") == 1);
  }
  SUBCASE("a receiver whose refusal comes late passes them over") {
    touchAll(2000);
    overwrite(to + "/medium", 10, random.bytes(5));
    std::atomic<bool> told{false};
    down.tamper = same.counted([&](Message type) {
      if (type == Message::kSame) told = true;
    });
    PipeOptions up;
    up.tamper = watch([&](Message type, std::span<uint8_t>) {
      if (type != Message::kManifestWanted) return;
      for (int turns = 0; !told && turns < 2000; ++turns) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    });
    TransferRun refused(send(false), receive(), down, up);
    DH_REQUIRE_OK(refused.sender.outcome());
    DH_REQUIRE_OK(refused.receiver.outcome());
    CHECK(told);
    requireSameTree(from, to);
    CHECK(refused.sender.statistic("basisRefused") == 1);
  }
}

TEST_CASE_FIXTURE(SharedFixture, "an unchanged tree is known without reading it") {
  TestRandom random(2);
  writeTestFile(from + "/image", random.bytes(3 << 20));
  writeTestFile(from + "/small", random.bytes(300));
  begin();
  TransferRun run(send(true, false), receive());
  REQUIRE(run.ok());
  CHECK(run.bytes() < 200);
  CHECK(run.sender.statistic("hashedBytes") == 0);
  CHECK(run.receiver.statistic("hashedBytes") == 0);
  const auto record = readRecord(directory.path("receiver-record"));
  REQUIRE(record.has_value());
  CHECK(hasAllDigests(record->tree));
  // The same with a basis, though the copy has other inodes.
  turn();
  TransferRun copied(send(true), receive());
  REQUIRE(copied.ok());
  CHECK(copied.bytes() < 200);
  requireSameTree(from, to);
}

TEST_CASE_FIXTURE(SharedFixture, "a receiver that holds something else refuses, and nothing is lost") {
  TestRandom random(3);
  writeTestFile(from + "/image", random.bytes(3 << 20));
  writeTestFile(from + "/other", random.bytes(100'000));
  begin();
  int checks = 0;
  const auto check = [&](double refused) {
    turn();
    overwrite(from + "/image", 1 << 20, random.bytes(100));
    // New small files are gathered: what was gathered for the basis must not answer requests.
    writeTestFile(from + "/a-new" + std::to_string(++checks), random.bytes(50));
    TransferRun run(send(true), receive());
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
    CHECK(run.sender.statistic("basisRefused") == refused);
    CHECK(run.receiver.statistic("basisRefused") == refused);
  };
  check(0);
  overwrite(to + "/other", 5, random.bytes(5));
  check(1);
  check(0);
  std::filesystem::remove_all(to);
  check(1);
  // No record at the receiver: with digests to be made anyway, it still knows what it holds.
  ::unlink(directory.path("receiver-record").c_str());
  check(0);
  // None at the sender.
  ::unlink(directory.path("sender-record").c_str());
  turn();
  overwrite(from + "/image", 1 << 20, random.bytes(100));
  TransferRun run(send(true), receive());
  REQUIRE(run.ok());
  requireSameTree(from, to);
  // The basis is not what its record says: what it would have helped is asked for.
  overwrite(from + "/image", 77, random.bytes(10));
  turn();
  overwrite(from + "/image", 1 << 20, random.bytes(100));
  TransferRun stale(send(true), receive());
  REQUIRE(stale.ok());
  requireSameTree(from, to);
  CHECK(stale.sender.statistic("signatureBytes") > 0);
  // Damaged records are none.
  overwrite(directory.path("sender-record"), 30, random.bytes(4));
  writeTestFile(directory.path("receiver-record"), random.bytes(100));
  turn();
  overwrite(from + "/image", 1 << 20, random.bytes(100));
  TransferRun damaged(send(false), receive());
  REQUIRE(damaged.ok());
  requireSameTree(from, to);
}

TEST_CASE_FIXTURE(SharedFixture, "random trees, changed at random, arrive equal against a shared basis") {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    CAPTURE(seed);
    RandomTree tree(from, seed);
    tree.mutate(150);
    begin();
    for (int round = 0; round < 5; ++round) {
      CAPTURE(round);
      turn();
      tree.mutate(40);
      if (round == 3) RandomTree(to, seed * 100).mutate(5);
      PipeOptions narrow;
      narrow.pieceBytes = 1 + tree.random().below(5000);
      TransferRun run(send(round % 2 == 1), receive(round % 3 == 1), narrow, narrow);
      DH_REQUIRE_OK(run.sender.outcome());
      DH_REQUIRE_OK(run.receiver.outcome());
      requireSameTree(from, to);
      if (round != 3) CHECK(run.sender.statistic("basisRefused") == 0);
    }
    std::filesystem::remove_all(from);
    std::filesystem::remove_all(old);
    std::filesystem::remove_all(to);
  }
}

TEST_CASE_FIXTURE(SharedFixture, "a shared transfer that is cut anywhere is continued") {
  TestRandom random(4);
  writeTestFile(from + "/a", random.bytes(1 << 20));
  writeTestFile(from + "/b", random.bytes(300'001));
  writeTestFile(from + "/c", random.bytes(2000));
  begin();
  for (int cut = 0; cut < 12; ++cut) {
    CAPTURE(cut);
    turn();
    for (const char* name : {"/a", "/b", "/c"}) overwrite(from + name, random.below(1500), random.bytes(300));
    overwrite(from + "/a", 500'000, random.bytes(20'000));
    PipeOptions down;
    down.cutAfterBytes = 30 + random.below(24'000);
    PipeOptions up;
    if (cut % 3 == 2) up.cutAfterBytes = 60 + random.below(60);
    TransferRun broken(send(true), receive(cut % 2 == 0), down, up);
    TransferRun run(send(true), receive());
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
  }
}

TEST_CASE_FIXTURE(SharedFixture, "damaged shared streams make no wrong file") {
  TestRandom random(5);
  writeTestFile(from + "/a", random.bytes(1 << 20));
  writeTestFile(from + "/b", random.bytes(300'001));
  writeTestFile(from + "/c", random.bytes(2000));
  begin();
  for (int round = 0; round < 20; ++round) {
    CAPTURE(round);
    turn();
    for (const char* name : {"/a", "/b", "/c"}) overwrite(from + name, random.below(1500), random.bytes(300));
    overwrite(from + "/a", 500'000, random.bytes(20'000));
    PipeOptions down;
    const uint64_t at = 20 + random.below(22'000);
    down.tamper = [&](uint64_t offset, Bytes& bytes) {
      if (offset <= at && at < offset + bytes.size()) bytes[at - offset] ^= 0x10;
    };
    TransferRun tampered(send(true), receive(), down);
    if (tampered.ok()) {
      requireSameTree(from, to);
    } else {
      // Each file is old or new.
      for (const char* name : {"/a", "/b", "/c"}) {
        const Bytes content = readTestFile(to + name);
        CHECK((content == readTestFile(from + name) || content == readTestFile(old + name)));
      }
    }
    TransferRun run(send(true), receive());
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
  }
}

// A machine's memory, patched where it lies.
struct MemoryFixture : SharedFixture {
  SendJobOptions sendLate() const {
    SendJobOptions options = send(true);
    options.lateDigests = true;
    return options;
  }
  ReceiveJobOptions receiveInPlace() const {
    ReceiveJobOptions options = receive();
    options.inPlace = true;
    return options;
  }
  // Of 40 MiB, 16 are zeros and one is a hole.
  void beginMemory() {
    Bytes memory = random.bytes(40 << 20);
    std::fill_n(memory.begin() + (20 << 20), 16 << 20, uint8_t{0});
    writeSparseTestFile(from + "/ram", memory);
    begin();
    turn();
  }
  TestRandom random{31};
};

TEST_CASE_FIXTURE(MemoryFixture, "memory that has changed is read once at each end, and its times play no part") {
  beginMemory();
  const auto inode = openTestFile(to + "/ram").stat().value().st_ino;
  for (const bool changed : {true, false}) {
    CAPTURE(changed);
    if (changed) {
      for (size_t at = 4 << 20; at < 6 << 20; at += 50'000) overwrite(from + "/ram", at, random.bytes(20));
      overwrite(from + "/ram", 22 << 20, random.bytes(4096));
    }
    setMtime(from + "/ram", 1'000'000'000, 0);
    writeTestFile(from + "/state", random.bytes(100'000));
    TransferRun run(sendLate(), receiveInPlace());
    DH_REQUIRE_OK(run.sender.outcome());
    DH_REQUIRE_OK(run.receiver.outcome());
    requireSameTree(from, to);
    CHECK(run.sender.statistic("basisRefused") == 0);
    CHECK(run.sender.statistic("hashedBytes") == 0);
    CHECK(run.receiver.statistic("repairedFiles") == 0);
    CHECK(run.receiver.statistic("keptBytes") >= 20 << 20);
    CHECK(openTestFile(to + "/ram").stat().value().st_ino == inode);
    CHECK(run.bytes() < 100'000 + 20'000);
    turn();
  }
}

TEST_CASE_FIXTURE(MemoryFixture, "a page that is not what the receiver's record says of it is found and mended") {
  beginMemory();
  overwrite(to + "/ram", (10 << 20) + 5, random.bytes(1));
  // The record says the old of the file as it is now.
  const std::string path = directory.path("receiver-record");
  const auto record = readRecord(path);
  REQUIRE(record.has_value());
  REQUIRE(record->tree.size() == 2);
  const Entry before = record->tree.entry(1);
  setMtime(to + "/ram", before.mtimeSeconds, before.mtimeNanoseconds);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto root = Directory::openRoot(to);
  DH_REQUIRE_OK(root);
  Notes notes;
  auto scanned = scanTree(root.value(), {.stamps = true}, notes);
  DH_REQUIRE_OK(scanned);
  REQUIRE(scanned.value().stamps[1].inode != 0);
  scanned.value().tree.setDigest(1, *record->tree.digest(1));
  DH_REQUIRE_OK(writeRecord(path, scanned.value().tree, scanned.value().stamps));
  overwrite(from + "/ram", 1 << 20, random.bytes(50));
  TransferRun run(sendLate(), receiveInPlace());
  DH_REQUIRE_OK(run.sender.outcome());
  DH_REQUIRE_OK(run.receiver.outcome());
  CHECK(run.receiver.statistic("repairedFiles") == 1);
  requireSameTree(from, to);
}

}  // namespace
}  // namespace deltahop
