// The weak sum of a signature: a polynomial over a secret table, rolled byte by byte. FORMATS.md section 2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/bytes.h"

namespace deltahop {

/// The secret part, drawn from a session key: one per session.
class RollingTable {
 public:
  explicit RollingTable(const Key& key);
  uint32_t multiplier() const { return multiplier_; }
  const std::array<uint32_t, 256>& values() const { return values_; }

 private:
  std::array<uint32_t, 256> values_;
  uint32_t multiplier_;
};

/// h(b[0..n)) = sum of T[b[i]] * K^(n-1-i) mod 2^32 over a window of n = `windowBytes`.
class RollingHash {
 public:
  RollingHash(const RollingTable& table, size_t windowBytes);

  size_t windowBytes() const { return windowBytes_; }
  /// The sum of bytes[0 .. windowBytes).
  uint32_t hash(const uint8_t* bytes) const { return hashOf(bytes, windowBytes_); }
  /// The sum of any number of bytes (the short last block of a file).
  uint32_t hashOf(const uint8_t* bytes, size_t length) const;
  /// The sum after the window moved on by one byte.
  uint32_t roll(uint32_t sum, uint8_t out, uint8_t in) const { return sum * multiplier_ + in_[in] - out_[out]; }
  uint32_t multiplier() const { return multiplier_; }
  /// T[b], what a byte adds when it enters, and T[b] * K^n, what it takes away when it leaves: for the scan loop.
  const uint32_t* inTable() const { return in_.data(); }
  const uint32_t* outTable() const { return out_.data(); }

 private:
  std::array<uint32_t, 256> in_;
  std::array<uint32_t, 256> out_;
  uint32_t multiplier_;
  size_t windowBytes_;
};

}  // namespace deltahop
