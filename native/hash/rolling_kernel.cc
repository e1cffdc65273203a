#include "hash/rolling_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>
// g++ 12 takes the registers that its own headers leave undefined on purpose for a mistake of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace deltahop::rollingkernel {
namespace {

// The steps that a wide kernel leaves over, appended to the `passed` it has found.
size_t rollRest(Roll& roll, size_t step, size_t passed) {
  const uint8_t* leaving = roll.bytes;
  const uint8_t* entering = roll.bytes + roll.windowBytes;
  const uint32_t k = (*roll.powers)[1];
  const uint32_t k2 = (*roll.powers)[2];
  const auto change = [&](size_t i) { return entering[i] - leaving[i] * roll.leavingPower; };
  // Collected without a branch: one in a few dozen passes, at random, and a branch on each would cost more than the
  // rest.
  const auto test = [&](size_t i, uint32_t sum) {
    const uint32_t bit = sum >> roll.filterShift;
    roll.passedSteps[passed] = static_cast<uint32_t>(i);
    roll.passedSums[passed] = sum;
    passed += roll.filter[bit >> 5] >> (bit & 31) & 1;
  };
  uint32_t sum = roll.sum;
  for (; step + 4 <= roll.count; step += 4) {
    // The sums depend on each other by one multiplication for two bytes only.
    const uint32_t d0 = change(step), d1 = change(step + 1), d2 = change(step + 2), d3 = change(step + 3);
    const uint32_t sum2 = sum * k2 + (d0 * k + d1);
    test(step + 1, sum * k + d0);
    test(step + 2, sum2);
    test(step + 3, sum2 * k + d2);
    sum = sum2 * k2 + (d2 * k + d3);
    test(step + 4, sum);
  }
  for (; step < roll.count; ++step) {
    sum = sum * k + change(step);
    test(step + 1, sum);
  }
  roll.sum = sum;
  return passed;
}

uint32_t sumRest(uint32_t sum, const uint8_t* bytes, size_t length, const Powers& powers) {
  size_t i = 0;
  // Eight bytes a step: the chain of dependent multiplications is what costs.
  for (; i + 8 <= length; i += 8) {
    uint32_t eight = 0;
    for (size_t j = 0; j < 8; ++j) eight += bytes[i + j] * powers[7 - j];
    sum = sum * powers[8] + eight;
  }
  for (; i < length; ++i) sum = sum * powers[1] + bytes[i];
  return sum;
}

#if defined(__x86_64__)

// Entry m: where the set bits of m are, in three bits each; what follows them does not matter.
struct CompressTable {
  alignas(8) uint8_t lanes[256][8];
  constexpr CompressTable() : lanes() {
    for (unsigned mask = 0; mask < 256; ++mask) {
      unsigned next = 0;
      for (unsigned lane = 0; lane < 8; ++lane) {
        if ((mask >> lane & 1) != 0) lanes[mask][next++] = static_cast<uint8_t>(lane);
      }
    }
  }
};
constexpr CompressTable kCompress;

__attribute__((target("avx2"))) inline __m256i bytesAsWords(const uint8_t* bytes) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
}

__attribute__((target("avx2"))) inline __m256i loadWords(const uint32_t* words) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
}

#endif

}  // namespace

size_t rollPortable(Roll& roll) {
  return rollRest(roll, 0, 0);
}

uint32_t sumPortable(const uint8_t* bytes, size_t length, const Powers& powers) {
  return sumRest(0, bytes, length, powers);
}

#if defined(__x86_64__)

// With d(i) for what step i + 1 adds, the sums of the next eight steps are K^1..K^8 times the last sum, plus the prefix
// sums d(0), d(0)K + d(1), ... that three rounds of shift, multiply and add make of d.
__attribute__((target("avx2"))) size_t rollAvx2(Roll& roll) {
  const Powers& powers = *roll.powers;
  const uint8_t* leaving = roll.bytes;
  const uint8_t* entering = roll.bytes + roll.windowBytes;
  const auto k = [&](size_t n) __attribute__((target("avx2"))) { return static_cast<int>(powers[n]); };
  const __m256i k1 = _mm256_set1_epi32(k(1));
  const __m256i k2 = _mm256_set1_epi32(k(2));
  const __m256i k8 = _mm256_set1_epi32(k(8));
  const __m256i kHigh = _mm256_setr_epi32(0, 0, 0, 0, k(1), k(2), k(3), k(4));
  const __m256i kRising = loadWords(&powers[1]);
  const __m256i kLeaving = _mm256_set1_epi32(static_cast<int>(roll.leavingPower));
  const __m256i three = _mm256_set1_epi32(3);
  const __m256i seven = _mm256_set1_epi32(7);
  const __m256i bitMask = _mm256_set1_epi32(31);
  const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(roll.filterShift));
  const auto* filter = reinterpret_cast<const int*>(roll.filter);
  __m256i base = _mm256_set1_epi32(static_cast<int>(roll.sum));
  __m256i steps = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8);
  size_t passed = 0;
  size_t step = 0;
  for (; step + 8 <= roll.count; step += 8) {
    __m256i prefix =
        _mm256_sub_epi32(bytesAsWords(entering + step), _mm256_mullo_epi32(bytesAsWords(leaving + step), kLeaving));
    prefix = _mm256_add_epi32(prefix, _mm256_mullo_epi32(_mm256_slli_si256(prefix, 4), k1));
    prefix = _mm256_add_epi32(prefix, _mm256_mullo_epi32(_mm256_slli_si256(prefix, 8), k2));
    prefix = _mm256_add_epi32(prefix, _mm256_mullo_epi32(_mm256_permutevar8x32_epi32(prefix, three), kHigh));
    const __m256i sums = _mm256_add_epi32(prefix, _mm256_mullo_epi32(base, kRising));
    base = _mm256_add_epi32(_mm256_mullo_epi32(base, k8), _mm256_permutevar8x32_epi32(prefix, seven));
    const __m256i bit = _mm256_srl_epi32(sums, shift);
    const __m256i words = _mm256_i32gather_epi32(filter, _mm256_srli_epi32(bit, 5), 4);
    const __m256i hits = _mm256_sllv_epi32(words, _mm256_andnot_si256(bit, bitMask));
    const auto mask = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(hits)));
    const __m256i order = bytesAsWords(kCompress.lanes[mask]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(roll.passedSteps + passed),
                        _mm256_permutevar8x32_epi32(steps, order));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(roll.passedSums + passed), _mm256_permutevar8x32_epi32(sums, order));
    passed += static_cast<size_t>(__builtin_popcount(mask));
    steps = _mm256_add_epi32(steps, _mm256_set1_epi32(8));
  }
  roll.sum = static_cast<uint32_t>(_mm256_cvtsi256_si32(base));
  return rollRest(roll, step, passed);
}

// The same, sixteen steps at once.
__attribute__((target("avx512f,avx512vl,avx2"))) size_t rollAvx512(Roll& roll) {
  const Powers& powers = *roll.powers;
  const uint8_t* leaving = roll.bytes;
  const uint8_t* entering = roll.bytes + roll.windowBytes;
  const __m512i k1 = _mm512_set1_epi32(static_cast<int>(powers[1]));
  const __m512i k2 = _mm512_set1_epi32(static_cast<int>(powers[2]));
  const __m512i k4 = _mm512_set1_epi32(static_cast<int>(powers[4]));
  const __m512i k8 = _mm512_set1_epi32(static_cast<int>(powers[8]));
  const __m512i k16 = _mm512_set1_epi32(static_cast<int>(powers[16]));
  const __m512i kRising = _mm512_loadu_si512(&powers[1]);
  const __m512i kLeaving = _mm512_set1_epi32(static_cast<int>(roll.leavingPower));
  const __m512i zero = _mm512_setzero_si512();
  const __m512i one = _mm512_set1_epi32(1);
  const __m512i bitMask = _mm512_set1_epi32(31);
  const __m512i last = _mm512_set1_epi32(15);
  const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(roll.filterShift));
  __m512i base = _mm512_set1_epi32(static_cast<int>(roll.sum));
  __m512i steps = _mm512_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
  size_t passed = 0;
  size_t step = 0;
  for (; step + 16 <= roll.count; step += 16) {
    const __m512i in = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entering + step)));
    const __m512i out = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(leaving + step)));
    __m512i prefix = _mm512_sub_epi32(in, _mm512_mullo_epi32(out, kLeaving));
    prefix = _mm512_add_epi32(prefix, _mm512_mullo_epi32(_mm512_alignr_epi32(prefix, zero, 15), k1));
    prefix = _mm512_add_epi32(prefix, _mm512_mullo_epi32(_mm512_alignr_epi32(prefix, zero, 14), k2));
    prefix = _mm512_add_epi32(prefix, _mm512_mullo_epi32(_mm512_alignr_epi32(prefix, zero, 12), k4));
    prefix = _mm512_add_epi32(prefix, _mm512_mullo_epi32(_mm512_alignr_epi32(prefix, zero, 8), k8));
    const __m512i sums = _mm512_add_epi32(prefix, _mm512_mullo_epi32(base, kRising));
    base = _mm512_add_epi32(_mm512_mullo_epi32(base, k16), _mm512_permutexvar_epi32(last, prefix));
    const __m512i bit = _mm512_srl_epi32(sums, shift);
    const __m512i words = _mm512_i32gather_epi32(_mm512_srli_epi32(bit, 5), roll.filter, 4);
    const __mmask16 mask = _mm512_test_epi32_mask(words, _mm512_sllv_epi32(one, _mm512_and_si512(bit, bitMask)));
    // Compressed in a register: compressing stores are slow on some machines.
    _mm512_storeu_si512(roll.passedSteps + passed, _mm512_maskz_compress_epi32(mask, steps));
    _mm512_storeu_si512(roll.passedSums + passed, _mm512_maskz_compress_epi32(mask, sums));
    passed += static_cast<size_t>(__builtin_popcount(mask));
    steps = _mm512_add_epi32(steps, _mm512_set1_epi32(16));
  }
  roll.sum = static_cast<uint32_t>(_mm512_cvtsi512_si32(base));
  return rollRest(roll, step, passed);
}

__attribute__((target("avx2"))) uint32_t sumAvx2(const uint8_t* bytes, size_t length, const Powers& powers) {
  const __m256i k32 = _mm256_set1_epi32(static_cast<int>(powers[32]));
  __m256i lanes[4] = {};
  size_t i = 0;
  for (; i + 32 <= length; i += 32) {
    for (size_t j = 0; j < 4; ++j) {
      lanes[j] = _mm256_add_epi32(_mm256_mullo_epi32(lanes[j], k32), bytesAsWords(bytes + i + 8 * j));
    }
  }
  uint32_t words[32];
  for (size_t j = 0; j < 4; ++j) _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + 8 * j), lanes[j]);
  uint32_t sum = 0;
  for (size_t j = 0; j < 32; ++j) sum += words[j] * powers[31 - j];
  return sumRest(sum, bytes + i, length - i, powers);
}

#endif

}  // namespace deltahop::rollingkernel
