#include "hash/rolling_hash.h"

#include <cstring>
#include <string>

#include "base/test_support.h"
#include "hash/blake3.h"

namespace deltahop {
namespace {

constexpr Key kKey = {9, 8, 7};

// FORMATS.md section 2, word for word.
uint32_t fromSpecification(ByteSpan bytes) {
  const auto keyWord = [](uint8_t block, size_t index) {
    const std::string context = "deltahop rolling table";
    Bytes input(context.begin(), context.end());
    input.push_back(block);
    const Digest digest = blake3Keyed(kKey, input);
    return uint32_t{digest[4 * index]} | uint32_t{digest[4 * index + 1]} << 8 | uint32_t{digest[4 * index + 2]} << 16 |
           uint32_t{digest[4 * index + 3]} << 24;
  };
  const uint32_t multiplier = (keyWord(32, 0) & ~7u) | 5u;
  uint32_t sum = 0;
  for (const uint8_t byte : bytes) sum = sum * multiplier + keyWord(byte / 8, byte % 8);
  return sum;
}

TEST_CASE("rolling hash: as specified, and rolled equals from scratch at every offset") {
  TestRandom random(1);
  const RollingTable table(kKey);
  const Bytes bytes = random.bytes(9000);
  CHECK(RollingHash(table, 300).hash(bytes.data()) == fromSpecification(ByteSpan(bytes).first(300)));
  for (const size_t window : {1, 2, 3, 4, 5, 512, 4096}) {
    const RollingHash rolling(table, window);
    uint32_t sum = rolling.hash(bytes.data());
    for (size_t at = 0; at + window < bytes.size(); ++at) {
      REQUIRE(sum == rolling.hash(bytes.data() + at));
      sum = rolling.roll(sum, bytes[at], bytes[at + window]);
    }
  }
}

TEST_CASE("rolling hash: another key, another sum") {
  const Bytes bytes(512, 'a');
  CHECK(RollingHash(RollingTable(kKey), 512).hash(bytes.data()) !=
        RollingHash(RollingTable(Key{}), 512).hash(bytes.data()));
}

}  // namespace
}  // namespace deltahop
