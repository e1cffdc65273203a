#include <cstring>

#include "base/test_support.h"
#include "codec/page_decoder.h"
#include "codec/page_encoder.h"
#include "hash/content_digest.h"
#include "match/page_matcher.h"

namespace deltahop {
namespace {

// Puts a target together again in memory.
struct Rebuilt : DeltaSink {
  explicit Rebuilt(const Bytes& oldBytes) : old(oldBytes) {}
  Status copy(uint64_t offset, uint64_t length) override {
    bytes.insert(bytes.end(), old.begin() + static_cast<ptrdiff_t>(offset),
                 old.begin() + static_cast<ptrdiff_t>(offset + length));
    return {};
  }
  Status literal(ByteSpan data) override {
    bytes.insert(bytes.end(), data.begin(), data.end());
    return {};
  }
  Status zeros(uint64_t length) override {
    bytes.resize(bytes.size() + length);
    return {};
  }
  const Bytes& old;
  Bytes bytes;
};

struct Moved {
  Bytes rebuilt;
  uint64_t wireBytes = 0;
  std::vector<Bytes> blocks;
  PageStatistics statistics;
};

Basis basisOf(const std::string& path) {
  std::vector<File> files;
  files.push_back(openTestFile(path));
  auto basis = Basis::make(std::move(files), 512);
  DH_REQUIRE_OK(basis);
  return std::move(basis).value();
}

Moved move(const TestDirectory& directory, const Bytes& oldBytes, const Bytes& newBytes) {
  writeSparseTestFile(directory.path("old"), oldBytes);
  writeSparseTestFile(directory.path("new"), newBytes);
  const File oldFile = openTestFile(directory.path("old"));
  const File newFile = openTestFile(directory.path("new"));
  auto target = PageFile::open(newFile);
  auto basis = PageFile::open(oldFile);
  DH_REQUIRE_OK(target);
  DH_REQUIRE_OK(basis);
  Moved moved;
  PageBlockWriter writer(3);
  PageEncoder encoder([&](PageBlock block) -> Status {
    DH_TRY(Bytes bytes, writer.write(block));
    moved.wireBytes += bytes.size();
    moved.blocks.push_back(std::move(bytes));
    return {};
  });
  PageMatcher matcher(std::move(target).value(), std::move(basis).value(), encoder);
  const auto digest = matcher.run([](uint64_t) { return true; });
  DH_REQUIRE_OK(digest);
  DH_REQUIRE_OK(encoder.finish());
  moved.statistics = matcher.statistics();
  ContentHasher hasher;
  hasher.update(newBytes);
  CHECK(digest.value() == hasher.finish());

  const Basis held = basisOf(directory.path("old"));
  PageDecoder decoder(held, newBytes.size());
  Rebuilt rebuilt(oldBytes);
  for (const Bytes& block : moved.blocks) {
    CHECK(block.size() <= kMaxPageBlockBytes);
    DH_REQUIRE_OK(decoder.decode(block, rebuilt));
  }
  moved.rebuilt = std::move(rebuilt.bytes);
  CHECK(moved.rebuilt == newBytes);
  return moved;
}

void changeWords(Bytes& bytes, size_t page, size_t words, TestRandom& random) {
  for (size_t i = 0; i < words; ++i) {
    const uint64_t value = random.next();
    std::memcpy(bytes.data() + page * kPageBytes + 8 * random.below(512), &value, 8);
  }
}

TEST_CASE("pages: any old and new file come out right") {
  TestRandom random(20);
  for (int round = 0; round < 40; ++round) {
    CAPTURE(round);
    TestDirectory directory;
    const size_t oldPages = random.below(round % 4 == 0 ? 700 : 40);
    Bytes old = random.bytes(oldPages * kPageBytes + random.below(2) * random.below(kPageBytes));
    for (size_t page = 0; page < oldPages; ++page) {
      if (random.below(4) == 0) std::memset(old.data() + page * kPageBytes, 0, kPageBytes);
    }
    Bytes target;
    const size_t pieces = random.below(60);
    for (size_t piece = 0; piece < pieces; ++piece) {
      const size_t pages = 1 + random.below(20);
      const size_t from = oldPages == 0 ? 0 : random.below(oldPages);
      const uint64_t kind = random.below(6);
      const size_t start = target.size() / kPageBytes;
      if (kind == 0) {
        target.resize(target.size() + pages * kPageBytes);
      } else if (kind == 1 || oldPages == 0) {
        const Bytes fresh = random.bytes(pages * kPageBytes);
        target.insert(target.end(), fresh.begin(), fresh.end());
      } else {
        const size_t begin = (kind == 2 ? std::min(start, oldPages) : from) * kPageBytes;
        const size_t end = std::min(begin + pages * kPageBytes, oldPages * kPageBytes);
        target.insert(target.end(), old.begin() + static_cast<ptrdiff_t>(begin),
                      old.begin() + static_cast<ptrdiff_t>(end));
        for (size_t page = start; kind >= 4 && page < target.size() / kPageBytes; ++page) {
          changeWords(target, page, 1 + random.below(kind == 4 ? 60 : 400), random);
        }
      }
    }
    if (random.below(2) == 0) {
      const Bytes tail = random.bytes(random.below(kPageBytes));
      target.insert(target.end(), tail.begin(), tail.end());
    }
    move(directory, old, target);
  }
}

TEST_CASE("pages: what moved or changed a little costs little") {
  TestRandom random(21);
  TestDirectory directory;
  const Bytes old = random.bytes(1500 * kPageBytes);
  // Everything one page further on, as when CRIU dumps one page more; one page in five changed in three words.
  Bytes target = random.bytes(kPageBytes);
  target.insert(target.end(), old.begin(), old.end());
  size_t changed = 0;
  for (size_t page = 1; page <= 1500; page += 5, ++changed) changeWords(target, page, 3, random);
  const Moved moved = move(directory, old, target);
  CHECK(moved.statistics.sharedMatchedBytes == (1500 - changed) * kPageBytes);
  CHECK(moved.statistics.residualBytes + moved.statistics.freshBytes == (changed + 1) * kPageBytes);
  // A fresh page, and for each changed one its words, its bitmap and two instructions.
  CHECK(moved.wireBytes < kPageBytes + changed * 60 + 1000);

  // Nothing at all changed: some bytes for each 64 MiB.
  CHECK(move(directory, old, old).wireBytes < 100);
  // Nothing in common: no more than the bytes and what says so.
  const Bytes other = random.bytes(300 * kPageBytes);
  CHECK(move(directory, old, other).wireBytes < other.size() + 400);
}

TEST_CASE("pages: what went in or out before the rest costs no further reading of it") {
  TestDirectory directory;
  TestRandom random(25);
  const Bytes old = random.bytes(40 << 20);
  const auto page = [&](size_t number) { return old.begin() + static_cast<ptrdiff_t>(number * kPageBytes); };
  Bytes target(page(3), page(2000));  // three out at the beginning
  const Bytes fresh = random.bytes(5 * kPageBytes);
  target.insert(target.end(), fresh.begin(), fresh.end());
  target.insert(target.end(), page(2000), page(6000));
  target.insert(target.end(), page(6200), page(9000));
  target.resize(target.size() + 50 * kPageBytes);
  target.insert(target.end(), page(9000), old.end());
  const Moved moved = move(directory, old, target);
  CHECK(moved.statistics.sharedMatchedBytes + moved.statistics.identityBytes == old.size() - 203 * kPageBytes);
  CHECK(moved.statistics.freshBytes + moved.statistics.residualBytes == 5 * kPageBytes);
  CHECK(moved.statistics.zeroBytes == 50 * kPageBytes);
  // Both files, a search at each of the four places by each of the two threads, the segments around them once more, and
  // what the survey could not place.
  CHECK(moved.statistics.readBytes < 2 * old.size() + (48 << 20));
  CHECK(moved.wireBytes < 6 * kPageBytes + 1000);
}

TEST_CASE("pages: many changed words are found again beside the old page, also where they moved inside it") {
  TestRandom random(22);
  TestDirectory directory;
  const Bytes old = random.bytes(200 * kPageBytes);
  Bytes target;
  for (size_t page = 0; page < 200; ++page) {
    // As a B-tree page does: something goes in, the rest moves on.
    const Bytes inserted = random.bytes(24);
    const auto begin = old.begin() + static_cast<ptrdiff_t>(page * kPageBytes);
    target.insert(target.end(), begin, begin + 100);
    target.insert(target.end(), inserted.begin(), inserted.end());
    target.insert(target.end(), begin + 100, begin + static_cast<ptrdiff_t>(kPageBytes - 24));
  }
  const Moved moved = move(directory, old, target);
  CHECK(moved.statistics.residualBytes == 200 * kPageBytes);
  CHECK(moved.wireBytes < 200 * 140);
}

TEST_CASE("pages: a faulty block is refused before anything is told") {
  TestRandom random(23);
  TestDirectory directory;
  const Bytes old = random.bytes(20 * kPageBytes);
  Bytes target = old;
  changeWords(target, 3, 5, random);
  changeWords(target, 7, 300, random);
  const Moved moved = move(directory, old, target);
  REQUIRE(moved.blocks.size() == 1);
  const Basis held = basisOf(directory.path("old"));
  for (size_t at = 0; at < moved.blocks[0].size(); ++at) {
    Bytes block = moved.blocks[0];
    block[at] = static_cast<uint8_t>(block[at] ^ (1u << random.below(8)));
    PageDecoder decoder(held, target.size());
    Rebuilt rebuilt(old);
    if (!decoder.decode(block, rebuilt).ok()) CHECK(rebuilt.bytes.empty());
    Rebuilt cut(old);
    PageDecoder other(held, target.size());
    CHECK(!other.decode(ByteSpan(moved.blocks[0]).first(at), cut).ok());
    CHECK(cut.bytes.empty());
  }
  PageDecoder smaller(held, target.size() - 1);
  Rebuilt rebuilt(old);
  CHECK(smaller.decode(moved.blocks[0], rebuilt).error().code == Code::kLimit);
}

TEST_CASE("golden page block") {
  TestRandom random(24);
  TestDirectory directory;
  const Bytes old = random.bytes(30 * kPageBytes);
  Bytes target(old.begin() + kPageBytes, old.end());
  changeWords(target, 3, 5, random);
  changeWords(target, 7, 200, random);
  target.resize(target.size() + 2 * kPageBytes);
  target.insert(target.end(), 700, 'z');
  const Moved moved = move(directory, old, target);
  REQUIRE(moved.blocks.size() == 1);
  const std::string path = std::string(DELTAHOP_GOLDEN_DIR) + "/page_block_basic.dhpages";
  const char* mode = ::getenv("DELTAHOP_GOLDEN");
  if (mode != nullptr && std::string(mode) == "write") writeTestFile(path, moved.blocks[0]);
  CHECK(moved.blocks[0] == readTestFile(path));
}

TEST_CASE("pages: a large target is looked at by two threads, and more may be new than is kept of it") {
  TestDirectory directory;
  TestRandom random(21);
  const Bytes old = random.bytes(40 << 20);
  Bytes content = old;
  std::fill_n(content.begin() + (3 << 20), 2 << 20, uint8_t{0});
  std::fill_n(content.begin() + (6 << 20) + 4096, 8192, uint8_t{0});
  for (size_t at = 8 << 20; at < 10 << 20; at += 5 * 4096) content[at + 7] ^= 1;
  const Bytes fresh = random.bytes(20 << 20);
  std::copy(fresh.begin(), fresh.end(), content.begin() + (12 << 20));
  content.insert(content.end(), old.begin(), old.begin() + 3 * 4096);
  const Moved moved = move(directory, old, content);
  CHECK(moved.rebuilt == content);
  CHECK(moved.statistics.freshBytes + moved.statistics.residualBytes >= fresh.size());
  CHECK(moved.statistics.zeroBytes == (2 << 20) + 8192);
  CHECK(moved.statistics.identityBytes >= (40 << 20) - fresh.size() - (5 << 20));
}

}  // namespace
}  // namespace deltahop
