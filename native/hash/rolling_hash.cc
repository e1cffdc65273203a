#include "hash/rolling_hash.h"

#include <cstring>
#include <string_view>

#include "hash/blake3.h"

namespace deltahop {
namespace {

// Block i of the key stream: keyed BLAKE3 of "deltahop rolling table" and the byte i.
Digest keyBlock(const Key& key, uint8_t index) {
  static constexpr std::string_view kContext = "deltahop rolling table";
  Blake3 hasher = Blake3::keyed(key);
  hasher.update({reinterpret_cast<const uint8_t*>(kContext.data()), kContext.size()});
  hasher.update({&index, 1});
  return hasher.finish();
}

uint32_t word(const Digest& digest, size_t index) {
  uint32_t value;
  std::memcpy(&value, digest.data() + 4 * index, 4);
  return value;
}

}  // namespace

RollingTable::RollingTable(const Key& key) {
  for (size_t block = 0; block < 32; ++block) {
    const Digest digest = keyBlock(key, static_cast<uint8_t>(block));
    for (size_t i = 0; i < 8; ++i) values_[8 * block + i] = word(digest, i);
  }
  // 5 mod 8: odd, so that nothing is lost, and of the longest period (2^30) among the powers mod 2^32.
  multiplier_ = (word(keyBlock(key, 32), 0) & ~uint32_t{7}) | 5;
}

RollingHash::RollingHash(const RollingTable& table, size_t windowBytes)
    : in_(table.values()), multiplier_(table.multiplier()), windowBytes_(windowBytes) {
  uint32_t power = 1;
  uint32_t square = multiplier_;
  for (size_t n = windowBytes; n > 0; n >>= 1) {
    if (n & 1) power *= square;
    square *= square;
  }
  for (size_t i = 0; i < 256; ++i) out_[i] = in_[i] * power;
}

uint32_t RollingHash::hashOf(const uint8_t* bytes, size_t length) const {
  const uint32_t k = multiplier_;
  const uint32_t k2 = k * k;
  const uint32_t k4 = k2 * k2;
  uint32_t sum = 0;
  size_t i = 0;
  // Four bytes a step: the chain of dependent multiplications is what costs.
  for (; i + 4 <= length; i += 4) {
    const uint32_t high = in_[bytes[i]] * k + in_[bytes[i + 1]];
    const uint32_t low = in_[bytes[i + 2]] * k + in_[bytes[i + 3]];
    sum = sum * k4 + (high * k2 + low);
  }
  for (; i < length; ++i) sum = sum * k + in_[bytes[i]];
  return sum;
}

}  // namespace deltahop
