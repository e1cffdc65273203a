// The inner loops of the weak sum: over one window, and rolled along a run of bytes past a filter.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace deltahop::rollingkernel {

/// K^0 to K^32.
using Powers = std::array<uint32_t, 33>;

/// A roll along bytes: from the window at `bytes` on, one byte at a time, `count` times. The sum reached at each step
/// is looked up in the filter: bit `sum >> filterShift`, counted from the lowest bit of the first word.
struct Roll {
  const uint8_t* bytes;  // count + windowBytes of them are read
  size_t windowBytes;
  size_t count;  // at most 2^32 - 1
  const Powers* powers;
  uint32_t leavingPower;  // K^windowBytes
  const uint32_t* filter;
  unsigned filterShift;  // 1 to 31
  uint32_t sum;          // of the window at `bytes`; afterwards of that at bytes + count
  /// Steps (1 to count) and sums that passed the filter, rising; room for count + kSlack.
  uint32_t* passedSteps;
  uint32_t* passedSums;
};

/// Vectors are stored whole: so many entries may be written behind the last one.
inline constexpr size_t kSlack = 16;

// Each returns how many passed. One for each set of instructions, named after it; hash/kernels.h chooses.
size_t rollPortable(Roll& roll);
/// sum of bytes[i] * K^(length-1-i) mod 2^32.
uint32_t sumPortable(const uint8_t* bytes, size_t length, const Powers& powers);
#if defined(__x86_64__)
size_t rollAvx2(Roll& roll);
size_t rollAvx512(Roll& roll);
uint32_t sumAvx2(const uint8_t* bytes, size_t length, const Powers& powers);
#endif

}  // namespace deltahop::rollingkernel
