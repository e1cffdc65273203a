// The inner loops of BLAKE3: many inputs of the same length side by side.
#pragma once

#include <cstddef>
#include <cstdint>

namespace deltahop::blake3kernel {

inline constexpr uint32_t kIv[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                                    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

enum Flag : uint32_t {
  kChunkStart = 1,
  kChunkEnd = 2,
  kParent = 4,
  kRoot = 8,
  kKeyedHash = 16,
};

/// One compression; `value` is the chaining value in and out.
void compress(uint32_t value[8], const uint8_t block[64], uint32_t blockBytes, uint64_t counter, uint32_t flags);

/// `count` inputs of `blocks` 64-byte blocks each, to be hashed from `key`. counters[i] is that of inputs[i]. The first
/// block gets `startFlags` and the last one `endFlags` besides `flags`. Output: 8 words an input.
struct Batch {
  const uint8_t* const* inputs;
  const uint64_t* counters;
  size_t count;
  size_t blocks;
  const uint32_t* key;
  uint32_t flags;
  uint32_t startFlags;
  uint32_t endFlags;
  uint32_t* output;
};

// One for each set of instructions, named after it; hash/kernels.h chooses.
void hashManyPortable(const Batch& batch);
#if defined(__x86_64__)
void hashManySse41(const Batch& batch);
void hashManyAvx2(const Batch& batch);
void hashManyAvx512(const Batch& batch);
#elif defined(__aarch64__)
void hashManyNeon(const Batch& batch);
#endif

}  // namespace deltahop::blake3kernel
