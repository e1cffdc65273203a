// A patch in place is stopped after each of its steps, by a kill and by a loss of power, and so is each recovery: what
// lies there in the end is the old file or the new one.
#include "io/patch_journal.h"

#include "base/test_support.h"
#include "io/basis.h"
#include "io/memory_storage.h"

namespace deltahop {
namespace {

struct Piece {
  uint64_t offset;
  Bytes data;
  uint64_t zeros;
};

// An old file, a new one, and the pieces that lead from one to the other.
struct Change {
  Bytes before;
  Bytes after;
  std::vector<Piece> pieces;
};

Change randomChange(TestRandom& random) {
  Change change;
  change.before = random.bytes(random.below(3000));
  change.after = change.before;
  const uint64_t newBytes = random.below(4) == 0 ? random.below(5000) : change.before.size();
  change.after.resize(newBytes);
  uint64_t at = 0;
  const auto put = [&](uint64_t length) {
    length = std::min(length, newBytes - at);
    if (length == 0) return;
    Piece piece{at, {}, 0};
    if (random.below(3) == 0) {
      piece.zeros = length;
      std::fill_n(change.after.begin() + static_cast<ptrdiff_t>(at), length, uint8_t{0});
    } else {
      piece.data = random.bytes(length);
      std::copy_n(piece.data.begin(), length, change.after.begin() + static_cast<ptrdiff_t>(at));
    }
    change.pieces.push_back(std::move(piece));
    at += length;
  };
  while (at < newBytes && at < change.before.size()) {
    if (random.below(2) == 0) {
      at = std::min<uint64_t>(at + random.below(400), newBytes);
    } else {
      put(1 + random.below(200));
    }
  }
  while (at < newBytes) put(1 + random.below(500));
  return change;
}

constexpr PatchTarget kTarget{"some/file", 7, 1, 2};

Status patch(Storage& journalFile, Storage& target, const Change& change) {
  PatchJournalWriter writer(journalFile);
  DH_CHECK(writer.begin(kTarget));
  for (const Piece& piece : change.pieces) {
    if (piece.zeros > 0) {
      DH_CHECK(writer.zeros(piece.offset, piece.zeros));
    } else {
      DH_CHECK(writer.write(piece.offset, piece.data));
    }
  }
  DH_CHECK(writer.seal(change.after.size()));
  return applyPatch(journalFile, writer.journal(), target);
}

// What the next run does with what it finds.
Status recover(Storage& journalFile, Storage& target) {
  const auto journal = PatchJournal::read(journalFile);
  if (!journal.ok() || !journal.value().isSealed()) return {};
  return applyPatch(journalFile, journal.value(), target);
}

TEST_CASE("patch journal: says what was put into it") {
  MemoryStorage file;
  PatchJournalWriter writer(file);
  DH_REQUIRE_OK(writer.begin(kTarget));
  DH_REQUIRE_OK(writer.write(10, Bytes{1, 2}));
  DH_REQUIRE_OK(writer.write(12, Bytes{3}));
  DH_REQUIRE_OK(writer.zeros(13, 100));
  DH_REQUIRE_OK(writer.write(4000, Bytes(600 << 10, 5)));
  DH_REQUIRE_OK(writer.seal(1 << 20));
  const auto journal = PatchJournal::read(file);
  DH_REQUIRE_OK(journal);
  CHECK(journal.value().target().path == "some/file");
  CHECK(journal.value().target().inode == 7);
  CHECK(journal.value().target().birthSeconds == 1);
  CHECK(journal.value().target().birthNanoseconds == 2);
  CHECK(journal.value().isSealed());
  CHECK(journal.value().patchedBytes() == 1 << 20);
  const auto& extents = journal.value().extents();
  REQUIRE(extents.size() == 12);
  CHECK(extents[0].offset == 10);
  CHECK(extents[0].length == 3);
  CHECK(extents[1].isZeros());
  CHECK(extents[1].length == 100);
  CHECK(extents[2].offset == 4000);
  CHECK(extents[11].end() == 4000 + (600 << 10));
  Bytes three(3);
  DH_REQUIRE_OK(file.readAt(extents[0].journalOffset, three));
  CHECK(three == Bytes{1, 2, 3});
}

TEST_CASE("patch journal: stopped after any step, the file is old or new") {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    TestRandom random(seed);
    const Change change = randomChange(random);
    for (size_t steps = 0;; ++steps) {
      CAPTURE(steps);
      StepBudget budget{steps};
      MemoryStorage journalFile({}, &budget);
      MemoryStorage target(change.before, &budget);
      const bool finished = patch(journalFile, target, change).ok();
      if (finished) CHECK(target.content() == change.after);

      // Killed: the kernel still has all that was written.
      MemoryStorage afterKill(target.content());
      MemoryStorage journalKept(journalFile.content());
      DH_REQUIRE_OK(recover(journalKept, afterKill));
      CHECK((afterKill.content() == change.before || afterKill.content() == change.after));

      const auto chance = [&](uint64_t bound) { return random.below(2) == 0 ? random.below(bound) : bound - 1; };
      for (int loss = 0; loss < 4; ++loss) {
        MemoryStorage journalLeft(journalFile.afterPowerLoss(chance));
        const Bytes targetLeft = target.afterPowerLoss(chance);
        // The recovery loses power as well, after any of its steps.
        StepBudget few{random.below(6)};
        MemoryStorage recovering(targetLeft, &few);
        (void)recover(journalLeft, recovering).ok();
        MemoryStorage recovered(recovering.afterPowerLoss(chance));
        DH_REQUIRE_OK(recover(journalLeft, recovered));
        const bool isNew = recovered.content() == change.after;
        CHECK((isNew || recovered.content() == change.before));
        // Once it counts as done, nothing takes it back.
        if (finished) CHECK(target.afterPowerLoss(chance) == change.after);
      }
      if (finished) break;
    }
  }
}

TEST_CASE("patch journal: any damage makes it unsealed or no journal") {
  TestRandom random(3);
  MemoryStorage whole;
  MemoryStorage ignored(Bytes(2000, 1));
  Change change = randomChange(random);
  while (change.pieces.size() < 4) change = randomChange(random);
  DH_REQUIRE_OK(patch(whole, ignored, change));
  for (size_t at = 0; at < whole.content().size(); ++at) {
    Bytes damaged = whole.content();
    damaged[at] ^= static_cast<uint8_t>(1 + random.below(255));
    const auto read = PatchJournal::read(MemoryStorage(damaged));
    if (read.ok()) CHECK(!read.value().isSealed());
    const auto cut =
        PatchJournal::read(MemoryStorage(Bytes(damaged.begin(), damaged.begin() + static_cast<ptrdiff_t>(at))));
    if (cut.ok()) CHECK(!cut.value().isSealed());
  }
  Bytes longer = whole.content();
  longer.push_back(0);
  const auto read = PatchJournal::read(MemoryStorage(longer));
  DH_REQUIRE_OK(read);
  CHECK(!read.value().isSealed());
  MemoryStorage target;
  MemoryStorage longerFile(longer);
  CHECK(applyPatch(longerFile, read.value(), target).error().code == Code::kInvalidArgument);
}

TEST_CASE("patch journal: golden file") {
  MemoryStorage file;
  MemoryStorage target(Bytes(6, 9));
  const Change change{{}, {}, {{1, Bytes{0xAA, 0xBB}, 0}, {4, {}, 300}, {304, Bytes{0xCC}, 0}}};
  PatchJournalWriter writer(file);
  DH_REQUIRE_OK(writer.begin({"dir/image", 0x1122334455667788, 1700000000, 123456789}));
  for (const Piece& piece : change.pieces) {
    DH_REQUIRE_OK(piece.zeros > 0 ? writer.zeros(piece.offset, piece.zeros) : writer.write(piece.offset, piece.data));
  }
  DH_REQUIRE_OK(writer.seal(305));
  const std::string golden = std::string(DELTAHOP_GOLDEN_DIR) + "/patch_journal_basic.dhpatch";
  const char* mode = ::getenv("DELTAHOP_GOLDEN");
  if (mode != nullptr && std::string(mode) == "write") writeTestFile(golden, file.content());
  CHECK(file.content() == readTestFile(golden));
  const auto journal = PatchJournal::read(file);
  DH_REQUIRE_OK(journal);
  DH_REQUIRE_OK(applyPatch(file, journal.value(), target));
  Bytes expected(305);
  expected[0] = expected[3] = 9;
  expected[1] = 0xAA;
  expected[2] = 0xBB;
  expected[304] = 0xCC;
  CHECK(target.content() == expected);
}

TEST_CASE("a cut patch lies over its file in a basis") {
  const TestDirectory directory;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    TestRandom random(seed);
    Change change;
    while (change.pieces.empty()) change = randomChange(random);
    // Cut behind some piece: the file up to there is the new one, and the old one further on.
    change.pieces.resize(1 + random.below(change.pieces.size()));
    const Piece& last = change.pieces.back();
    const uint64_t end = last.offset + std::max<uint64_t>(last.data.size(), last.zeros);
    Bytes expected(change.after.begin(), change.after.begin() + static_cast<ptrdiff_t>(end));
    if (change.before.size() > end) {
      expected.insert(expected.end(), change.before.begin() + static_cast<ptrdiff_t>(end), change.before.end());
    }
    writeTestFile(directory.path("live"), change.before);
    writeTestFile(directory.path("journal"), {});
    File journalFile = openTestFile(directory.path("journal"));
    FileStorage storage(journalFile);
    PatchJournalWriter writer(storage);
    DH_REQUIRE_OK(writer.begin(kTarget));
    for (const Piece& piece : change.pieces) {
      DH_REQUIRE_OK(piece.zeros > 0 ? writer.zeros(piece.offset, piece.zeros) : writer.write(piece.offset, piece.data));
    }
    DH_REQUIRE_OK(writer.flush());
    const auto journal = PatchJournal::read(storage);
    DH_REQUIRE_OK(journal);
    CHECK(!journal.value().isSealed());
    CHECK(journal.value().end() == end);

    writeTestFile(directory.path("other"), Bytes(10, 7));
    std::vector<File> files;
    files.push_back(openTestFile(directory.path("live")));
    files.push_back(openTestFile(directory.path("other")));
    const auto basis = Basis::make(std::move(files), 512, {std::move(journalFile), journal.value().extents()});
    DH_REQUIRE_OK(basis);
    expected.resize((expected.size() + 511) / 512 * 512);
    expected.insert(expected.end(), 10, 7);
    REQUIRE(basis.value().size() == expected.size());
    for (int i = 0; i < 50; ++i) {
      const uint64_t offset = random.below(expected.size());
      Bytes part(random.below(expected.size() - offset + 1));
      DH_REQUIRE_OK(basis.value().readAt(offset, part));
      CHECK(std::equal(part.begin(), part.end(), expected.begin() + static_cast<ptrdiff_t>(offset)));
    }
    for (uint64_t at = 0; at < expected.size();) {
      const auto extent = basis.value().nextExtent(at);
      DH_REQUIRE_OK(extent);
      REQUIRE(extent.value().offset == at);
      REQUIRE(extent.value().length > 0);
      REQUIRE(extent.value().end() <= expected.size());
      if (extent.value().isHole) {
        CHECK(isZero(ByteSpan(expected).subspan(at, extent.value().length)));
      }
      at = extent.value().end();
    }
  }
}

TEST_CASE("zeros: long runs become holes, short ones are written, the rest stays") {
  const TestDirectory directory;
  TestRandom random(5);
  Bytes expected = random.bytes(1 << 20);
  writeTestFile(directory.path("file"), expected);
  File file = openTestFile(directory.path("file"));
  FileStorage storage(file);
  const auto blocks = [&] { return file.stat().value().st_blocks; };
  DH_REQUIRE_OK(file.sync());
  const auto before = blocks();
  const auto zero = [&](uint64_t offset, uint64_t length) {
    DH_REQUIRE_OK(makeZeros(storage, offset, length));
    if (offset < expected.size()) {
      std::fill_n(expected.begin() + static_cast<ptrdiff_t>(offset), std::min(length, expected.size() - offset),
                  uint8_t{0});
    }
    CHECK(readTestFile(directory.path("file")) == expected);
  };
  zero(4096, 8192);
  CHECK(blocks() == before);
  zero(100'001, 200'000);
  CHECK(blocks() < before - 300);
  zero(900'000, 1 << 20);
  zero(2 << 20, 1 << 20);
  CHECK(file.size().value() == 1 << 20);
}

}  // namespace
}  // namespace deltahop
