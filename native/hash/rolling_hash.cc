#include "hash/rolling_hash.h"

#include <cstring>
#include <string_view>

#include "hash/blake3.h"

namespace deltahop {

RollingHash::RollingHash(const Key& key, size_t windowBytes) : windowBytes_(windowBytes) {
  static constexpr std::string_view kContext = "deltahop rolling sum";
  const Digest drawn = blake3Keyed(key, {reinterpret_cast<const uint8_t*>(kContext.data()), kContext.size()});
  uint32_t base;
  std::memcpy(&base, drawn.data(), sizeof base);
  // 5 mod 8: odd, so that nothing is lost, and of the longest period (2^30) among the powers mod 2^32.
  base = (base & ~uint32_t{7}) | 5;
  powers_[0] = 1;
  for (size_t i = 1; i < powers_.size(); ++i) powers_[i] = powers_[i - 1] * base;
  uint32_t square = base;
  for (size_t n = windowBytes; n > 0; n >>= 1) {
    if (n & 1) leavingPower_ *= square;
    square *= square;
  }
}

}  // namespace deltahop
