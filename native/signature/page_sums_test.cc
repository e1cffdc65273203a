#include "signature/page_sums.h"

#include "base/test_support.h"
#include "hash/blake3.h"
#include "hash/rolling_hash.h"

namespace deltahop {
namespace {

Key testKey() {
  Key key{};
  for (size_t i = 0; i < key.size(); ++i) key[i] = static_cast<uint8_t>(i * 7);
  return key;
}

Basis basisOf(const std::string& path) {
  std::vector<File> files;
  files.push_back(openTestFile(path));
  auto basis = Basis::make(std::move(files), 512);
  DH_REQUIRE_OK(basis);
  return std::move(basis).value();
}

TEST_CASE("sums are those of the blocks, holes and a short end among them") {
  TestDirectory directory;
  TestRandom random(31);
  Bytes content = random.bytes(3 * kSumSegmentBytes + 1000);
  std::fill_n(content.begin() + 5000, 600'000, uint8_t{0});
  writeSparseTestFile(directory.path("basis"), content);
  const Basis basis = basisOf(directory.path("basis"));
  const Key key = testKey();
  for (const unsigned shift : {6u, 9u, 12u, 18u}) {
    CAPTURE(shift);
    const uint64_t blocks = (content.size() + (uint64_t{1} << shift) - 1) >> shift;
    for (const unsigned width : {2u, 5u, 8u}) {
      PageSums sums(basis, key);
      Bytes made;
      const uint64_t first = blocks / 3;
      DH_REQUIRE_OK(sums.append(made, shift, width, {0, first}));
      DH_REQUIRE_OK(sums.append(made, shift, width, {first, blocks - first}));
      REQUIRE(made.size() == blocks * width);
      for (uint64_t i = 0; i < blocks; i += 1 + i / 7) {
        const uint64_t begin = i << shift;
        const ByteSpan block =
            ByteSpan(content).subspan(begin, std::min<uint64_t>(uint64_t{1} << shift, content.size() - begin));
        const Digest digest = blake3Keyed(key, block);
        REQUIRE(std::equal(digest.begin(), digest.begin() + width, made.begin() + static_cast<ptrdiff_t>(i * width)));
        uint64_t hash = 0;
        blake3KeyedBlocks(key, block.data(), block.size(), 1, &hash);
        REQUIRE(sumAt(made.data() + i * width, width) == firstBytes(hash, width));
      }
      // The hole alone is not read.
      if (shift == 12) CHECK(sums.readBytes() < content.size() - 500'000);
    }
  }
}

TEST_CASE("rolling sums have the weak sum first, in holes too") {
  TestDirectory directory;
  TestRandom random(33);
  Bytes content = random.bytes(kSumSegmentBytes);
  std::fill_n(content.begin() + 4096, 100'000, uint8_t{0});
  writeSparseTestFile(directory.path("basis"), content);
  const Basis basis = basisOf(directory.path("basis"));
  const Key key = testKey();
  const RollingHash rolling(key, 256);
  PageSums sums(basis, key);
  Bytes made;
  DH_REQUIRE_OK(sums.append(made, 8, 6, {0, 1024}, true));
  REQUIRE(made.size() == 1024 * 6);
  for (uint64_t i = 0; i < 1024; ++i) {
    uint64_t hash = 0;
    blake3KeyedBlocks(key, content.data() + i * 256, 256, 1, &hash);
    REQUIRE(sumAt(made.data() + i * 6, 4) == rolling.hash(content.data() + i * 256));
    REQUIRE(sumAt(made.data() + i * 6 + 4, 2) == firstBytes(hash, 2));
  }
}

TEST_CASE("a query goes there and back, and asks for nothing that is not held") {
  SumQuery query{12, 4, {}};
  for (const uint64_t block : {7, 8, 9, 3, 4, 1000}) query.add(block);
  query.add(20, 5);
  REQUIRE(query.runs.size() == 4);
  CHECK(query.blocks() == 11);
  CHECK(query.answerBytes() == 44);
  const Bytes encoded = encodeRuns(query);
  SumQuery read{12, 4, {}};
  DH_REQUIRE_OK(decodeRuns(encoded, 1001 * 4096, 11, read));
  REQUIRE(read.runs.size() == query.runs.size());
  for (size_t i = 0; i < read.runs.size(); ++i) {
    CHECK(read.runs[i].first == query.runs[i].first);
    CHECK(read.runs[i].count == query.runs[i].count);
  }
  CHECK(decodeRuns(encoded, 1001 * 4096 - 1, 11, read).error().code == Code::kCorrupt);
  CHECK(decodeRuns(encoded, 1001 * 4096, 10, read).error().code == Code::kLimit);
  CHECK(decodeRuns({}, 1001 * 4096, 10, read).error().code == Code::kCorrupt);
  CHECK(decodeRuns(ByteSpan(encoded).first(1), 1001 * 4096, 10, read).error().code == Code::kTruncated);
  CHECK(decodeRuns(Bytes{0, 0}, 4096, 10, read).error().code == Code::kCorrupt);
  CHECK(decodeRuns(Bytes{1, 1}, 4096, 10, read).error().code == Code::kCorrupt);
}

TEST_CASE("golden sums") {
  TestDirectory directory;
  TestRandom random(32);
  Bytes content = random.bytes(40 * 4096);
  std::fill_n(content.begin() + 8 * 4096, 4 * 4096, uint8_t{0});
  writeSparseTestFile(directory.path("basis"), content);
  const Basis basis = basisOf(directory.path("basis"));
  const Key key = testKey();
  SumQuery query{12, 5, {}};
  query.add(2, 9);
  query.add(39);
  query.add(0);
  Bytes golden = encodeRuns(query);
  PageSums sums(basis, key);
  for (const BlockRun& run : query.runs) DH_REQUIRE_OK(sums.append(golden, query.blockShift, query.sumBytes, run));
  DH_REQUIRE_OK(sums.append(golden, kSumSegmentShift, kMaxSumBytes, {0, 1}));
  DH_REQUIRE_OK(sums.append(golden, kMinQueryShift, kMinSumBytes, {64, 8}));
  Bytes rolling;
  DH_REQUIRE_OK(sums.append(rolling, 8, 6, {110, 30}, true));
  const char* mode = ::getenv("DELTAHOP_GOLDEN");
  for (const auto& [name, bytes] :
       {std::pair{"/page_sums_basic.dhsums", golden}, {"/page_sums_rolling.dhsums", rolling}}) {
    const std::string path = std::string(DELTAHOP_GOLDEN_DIR) + name;
    if (mode != nullptr && std::string(mode) == "write") writeTestFile(path, bytes);
    CHECK(bytes == readTestFile(path));
  }
}

}  // namespace
}  // namespace deltahop
