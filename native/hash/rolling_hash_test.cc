#include "hash/rolling_hash.h"

#include <string>
#include <vector>

#include "base/test_support.h"
#include "hash/blake3.h"
#include "hash/kernels_test_support.h"

namespace deltahop {
namespace {

constexpr Key kKey = {9, 8, 7};

// FORMATS.md section 2, word for word.
uint32_t fromSpecification(ByteSpan bytes) {
  const std::string context = "deltahop rolling sum";
  const Digest digest = blake3Keyed(kKey, Bytes(context.begin(), context.end()));
  const uint32_t first =
      uint32_t{digest[0]} | uint32_t{digest[1]} << 8 | uint32_t{digest[2]} << 16 | uint32_t{digest[3]} << 24;
  const uint32_t multiplier = (first & ~7u) | 5u;
  uint32_t sum = 0;
  for (const uint8_t byte : bytes) sum = sum * multiplier + byte;
  return sum;
}

TEST_CASE("rolling hash: as specified, and rolled equals from scratch at every offset, with every kernel") {
  TestRandom random(1);
  const Bytes bytes = random.bytes(9000);
  forEachKernels([&] {
    CHECK(RollingHash(kKey, 300).hash(bytes.data()) == fromSpecification(ByteSpan(bytes).first(300)));
    for (const size_t window : {1, 2, 3, 4, 5, 31, 32, 33, 63, 512, 4096}) {
      const RollingHash rolling(kKey, window);
      uint32_t sum = rolling.hash(bytes.data());
      for (size_t at = 0; at + window < bytes.size(); ++at) {
        REQUIRE(sum == rolling.hash(bytes.data() + at));
        sum = rolling.roll(sum, bytes[at], bytes[at + window]);
      }
    }
  });
}

TEST_CASE("rolling hash: another key, another sum") {
  const Bytes bytes(512, 'a');
  CHECK(RollingHash(kKey, 512).hash(bytes.data()) != RollingHash(Key{}, 512).hash(bytes.data()));
}

TEST_CASE("rolling scan: every kernel finds what one roll after the other finds") {
  TestRandom random(2);
  const Bytes bytes = random.bytes(3000);
  forEachKernels([&] {
    for (int round = 0; round < 200; ++round) {
      const size_t window = 1 + random.below(700);
      const size_t count = random.below(300);
      const size_t from = random.below(bytes.size() - window - count);
      const unsigned bits = 5 + static_cast<unsigned>(random.below(12));
      std::vector<uint32_t> filter(size_t{1} << (bits - 5));
      for (uint32_t& word : filter) word = static_cast<uint32_t>(random.next() & random.next());
      const RollingHash rolling(kKey, window);
      std::vector<uint32_t> steps(count + rollingkernel::kSlack);
      std::vector<uint32_t> sums(count + rollingkernel::kSlack);
      uint32_t sum = rolling.hash(bytes.data() + from);
      rollingkernel::Roll roll{.bytes = bytes.data() + from,
                               .windowBytes = window,
                               .count = count,
                               .powers = &rolling.powers(),
                               .leavingPower = rolling.leavingPower(),
                               .filter = filter.data(),
                               .filterShift = 32 - bits,
                               .sum = sum,
                               .passedSteps = steps.data(),
                               .passedSums = sums.data()};
      const size_t passed = kernels().rollingScan(roll);
      size_t expected = 0;
      for (size_t step = 1; step <= count; ++step) {
        sum = rolling.roll(sum, bytes[from + step - 1], bytes[from + step - 1 + window]);
        const uint32_t bit = sum >> (32 - bits);
        if ((filter[bit / 32] >> (bit % 32) & 1) == 0) continue;
        REQUIRE(expected < passed);
        REQUIRE(steps[expected] == step);
        REQUIRE(sums[expected] == sum);
        ++expected;
      }
      REQUIRE(expected == passed);
      REQUIRE(roll.sum == sum);
    }
  });
}

}  // namespace
}  // namespace deltahop
