// The weak sum of a signature: a polynomial over a secret base, rolled byte by byte. FORMATS.md section 2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"
#include "hash/kernels.h"

namespace deltahop {

/// h(b[0..n)) = sum of b[i] * K^(n-1-i) mod 2^32 over a window of n = `windowBytes`; K is drawn from a session's key.
/// It finds, and decides nothing: whoever chooses the bytes can make equal sums whatever K is.
class RollingHash {
 public:
  RollingHash(const Key& key, size_t windowBytes);

  /// The sum of bytes[0 .. windowBytes).
  uint32_t hash(const uint8_t* bytes) const { return hashOf(bytes, windowBytes_); }
  /// The sum of any number of bytes (the short last block of a file).
  uint32_t hashOf(const uint8_t* bytes, size_t length) const { return kernels().rollingSum(bytes, length, powers_); }
  /// The sum after the window moved on by one byte.
  uint32_t roll(uint32_t sum, uint8_t out, uint8_t in) const { return sum * powers_[1] + in - out * leavingPower_; }

  // For the scan loop.
  size_t windowBytes() const { return windowBytes_; }
  const rollingkernel::Powers& powers() const { return powers_; }
  /// K^windowBytes: what a byte weighs when it leaves.
  uint32_t leavingPower() const { return leavingPower_; }

 private:
  rollingkernel::Powers powers_;
  uint32_t leavingPower_ = 1;
  size_t windowBytes_;
};

}  // namespace deltahop
