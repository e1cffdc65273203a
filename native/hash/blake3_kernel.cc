#include "hash/blake3_kernel.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

// The engine reads words as they lie in memory; every format is little-endian and so is every machine we know.
static_assert(std::endian::native == std::endian::little);

#define DH_INLINE inline __attribute__((always_inline))

namespace deltahop::blake3kernel {
namespace {

// Which message word goes where in each of the seven rounds: the permutation of the specification, applied repeatedly.
constexpr uint8_t kSchedule[7][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
    {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1}, {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
    {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4}, {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
    {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13}};

// All that passes vectors by value below is inlined into the kernels, so no calling convention is concerned.
#pragma GCC diagnostic ignored "-Wpsabi"

// How a machine turns the words of a vector to the right: by shifts (which compilers make one instruction where there
// is one), or whole bytes by one byte shuffle.
enum class Rotation { kShift, kShuffle };

template <int kBytes, typename Word, size_t... kByte>
DH_INLINE Word rotateBytesRight(const Word& x, std::index_sequence<kByte...>) {
  typedef uint8_t ByteVector __attribute__((vector_size(sizeof(Word))));
  const auto bytes = std::bit_cast<ByteVector>(x);
  return std::bit_cast<Word>(__builtin_shufflevector(bytes, bytes, (kByte / 4 * 4 + (kByte + kBytes) % 4)...));
}

template <Rotation kRotation, int kBits, typename Word>
DH_INLINE Word rotateRight(const Word& x) {
  if constexpr (kRotation == Rotation::kShuffle && kBits % 8 == 0) {
    return rotateBytesRight<kBits / 8>(x, std::make_index_sequence<sizeof(Word)>());
  } else {
    return (x >> kBits) | (x << (32 - kBits));
  }
}

template <Rotation kRotation, typename Word>
DH_INLINE void mix(Word* v, int a, int b, int c, int d, const Word& x, const Word& y) {
  v[a] = v[a] + v[b] + x;
  v[d] = rotateRight<kRotation, 16>(v[d] ^ v[a]);
  v[c] = v[c] + v[d];
  v[b] = rotateRight<kRotation, 12>(v[b] ^ v[c]);
  v[a] = v[a] + v[b] + y;
  v[d] = rotateRight<kRotation, 8>(v[d] ^ v[a]);
  v[c] = v[c] + v[d];
  v[b] = rotateRight<kRotation, 7>(v[b] ^ v[c]);
}

template <Rotation kRotation, typename Word>
DH_INLINE void rounds(Word* v, const Word* m) {
#pragma GCC unroll 7
  for (int r = 0; r < 7; ++r) {
    const uint8_t* s = kSchedule[r];
    mix<kRotation>(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
    mix<kRotation>(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
    mix<kRotation>(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
    mix<kRotation>(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
    mix<kRotation>(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
    mix<kRotation>(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
    mix<kRotation>(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
    mix<kRotation>(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
  }
}

typedef uint32_t Vector4 __attribute__((vector_size(16)));

// Four words of each of four inputs become four rows of one word of each; rows are `stride` words apart.
DH_INLINE void transpose4(const uint8_t* const* inputs, size_t offset, uint32_t* rows, size_t stride) {
  Vector4 a, b, c, d;
  std::memcpy(&a, inputs[0] + offset, 16);
  std::memcpy(&b, inputs[1] + offset, 16);
  std::memcpy(&c, inputs[2] + offset, 16);
  std::memcpy(&d, inputs[3] + offset, 16);
  const Vector4 lowAB = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Vector4 highAB = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Vector4 lowCD = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Vector4 highCD = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const Vector4 out[4] = {
      __builtin_shufflevector(lowAB, lowCD, 0, 1, 4, 5), __builtin_shufflevector(lowAB, lowCD, 2, 3, 6, 7),
      __builtin_shufflevector(highAB, highCD, 0, 1, 4, 5), __builtin_shufflevector(highAB, highCD, 2, 3, 6, 7)};
  for (size_t i = 0; i < 4; ++i) std::memcpy(rows + i * stride, &out[i], 16);
}

// kLanes inputs at once; lane i of every vector belongs to inputs[i].
template <int kLanes>
struct Lanes {
  typedef uint32_t Vector __attribute__((vector_size(kLanes * 4)));
};

template <int kLanes, Rotation kRotation>
DH_INLINE void hashLanes(const Batch& batch, size_t first) {
  using Vector = typename Lanes<kLanes>::Vector;
  const uint8_t* const* inputs = batch.inputs + first;
  Vector value[8];
  for (int i = 0; i < 8; ++i) value[i] = Vector{} + batch.key[i];
  Vector counterLow, counterHigh;
  for (int lane = 0; lane < kLanes; ++lane) {
    counterLow[lane] = static_cast<uint32_t>(batch.counters[first + lane]);
    counterHigh[lane] = static_cast<uint32_t>(batch.counters[first + lane] >> 32);
  }
  for (size_t block = 0; block < batch.blocks; ++block) {
    uint32_t flags = batch.flags;
    if (block == 0) flags |= batch.startFlags;
    if (block + 1 == batch.blocks) flags |= batch.endFlags;
    Vector m[16];
    alignas(64) uint32_t words[16][kLanes];
    for (int lane = 0; lane < kLanes; lane += 4) {
      for (int i = 0; i < 16; i += 4) transpose4(inputs + lane, block * 64 + 4 * i, &words[i][lane], kLanes);
    }
    std::memcpy(m, words, sizeof m);
    Vector v[16];
    for (int i = 0; i < 8; ++i) v[i] = value[i];
    for (int i = 0; i < 4; ++i) v[8 + i] = Vector{} + kIv[i];
    v[12] = counterLow;
    v[13] = counterHigh;
    v[14] = Vector{} + 64u;
    v[15] = Vector{} + flags;
    rounds<kRotation>(v, m);
    for (int i = 0; i < 8; ++i) value[i] = v[i] ^ v[i + 8];
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 8; ++i) batch.output[(first + lane) * 8 + i] = value[i][lane];
  }
}

// The last inputs, fewer than lanes: one of them fills the others. Returns how many these were.
template <int kLanes, Rotation kRotation>
DH_INLINE size_t hashPadded(const Batch& batch, size_t first) {
  const size_t count = batch.count - first;
  const uint8_t* inputs[kLanes];
  uint64_t counters[kLanes];
  uint32_t output[kLanes * 8];
  for (size_t lane = 0; lane < kLanes; ++lane) {
    inputs[lane] = batch.inputs[first + std::min(lane, count - 1)];
    counters[lane] = batch.counters[first + std::min(lane, count - 1)];
  }
  hashLanes<kLanes, kRotation>(
      {inputs, counters, kLanes, batch.blocks, batch.key, batch.flags, batch.startFlags, batch.endFlags, output}, 0);
  std::memcpy(batch.output + first * 8, output, count * 8 * sizeof(uint32_t));
  return count;
}

// At most four: side by side they take as long as two of them one after the other.
template <Rotation kRotation>
DH_INLINE size_t hashFew(const Batch& batch, size_t first) {
  return batch.count - first > 2 ? hashPadded<4, kRotation>(batch, first) : 0;
}

void hashRest(const Batch& batch, size_t first) {
  for (size_t i = first; i < batch.count; ++i) {
    uint32_t value[8];
    std::memcpy(value, batch.key, sizeof value);
    for (size_t block = 0; block < batch.blocks; ++block) {
      uint32_t flags = batch.flags;
      if (block == 0) flags |= batch.startFlags;
      if (block + 1 == batch.blocks) flags |= batch.endFlags;
      compress(value, batch.inputs[i] + block * 64, 64, batch.counters[i], flags);
    }
    std::memcpy(batch.output + i * 8, value, sizeof value);
  }
}

}  // namespace

void compress(uint32_t value[8], const uint8_t block[64], uint32_t blockBytes, uint64_t counter, uint32_t flags) {
  uint32_t m[16];
  std::memcpy(m, block, sizeof m);
  uint32_t v[16] = {value[0], value[1], value[2], value[3], value[4], value[5], value[6],   value[7],
                    kIv[0],   kIv[1],   kIv[2],   kIv[3],   0,        0,        blockBytes, flags};
  v[12] = static_cast<uint32_t>(counter);
  v[13] = static_cast<uint32_t>(counter >> 32);
  rounds<Rotation::kShift>(v, m);
  for (int i = 0; i < 8; ++i) value[i] = v[i] ^ v[i + 8];
}

// Four lanes fit every 128-bit unit, and what has none is no slower for it.
void hashManyPortable(const Batch& batch) {
  size_t i = 0;
  for (; i + 4 <= batch.count; i += 4) hashLanes<4, Rotation::kShift>(batch, i);
  i += hashFew<Rotation::kShift>(batch, i);
  hashRest(batch, i);
}

#if defined(__x86_64__)
__attribute__((target("sse4.1"))) void hashManySse41(const Batch& batch) {
  size_t i = 0;
  for (; i + 4 <= batch.count; i += 4) hashLanes<4, Rotation::kShuffle>(batch, i);
  i += hashFew<Rotation::kShuffle>(batch, i);
  hashRest(batch, i);
}

__attribute__((target("avx2"))) void hashManyAvx2(const Batch& batch) {
  size_t i = 0;
  for (; i + 8 <= batch.count; i += 8) hashLanes<8, Rotation::kShuffle>(batch, i);
  if (batch.count - i > 4) i += hashPadded<8, Rotation::kShuffle>(batch, i);
  i += hashFew<Rotation::kShuffle>(batch, i);
  hashRest(batch, i);
}

__attribute__((target("avx512f,avx512vl"))) void hashManyAvx512(const Batch& batch) {
  size_t i = 0;
  for (; i + 16 <= batch.count; i += 16) hashLanes<16, Rotation::kShift>(batch, i);
  if (batch.count - i > 8) i += hashPadded<16, Rotation::kShift>(batch, i);
  if (batch.count - i > 4) i += hashPadded<8, Rotation::kShift>(batch, i);
  i += hashFew<Rotation::kShift>(batch, i);
  hashRest(batch, i);
}
#elif defined(__aarch64__)
void hashManyNeon(const Batch& batch) {
  size_t i = 0;
  for (; i + 4 <= batch.count; i += 4) hashLanes<4, Rotation::kShuffle>(batch, i);
  i += hashFew<Rotation::kShuffle>(batch, i);
  hashRest(batch, i);
}
#endif

}  // namespace deltahop::blake3kernel
