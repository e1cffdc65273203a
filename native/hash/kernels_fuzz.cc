// Differential: any bytes, cut and keyed as the first ones say, give the same with every set of kernels.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include "hash/blake3.h"
#include "hash/rolling_hash.h"

namespace {

struct Outcome {
  deltahop::Digest digest;
  std::vector<uint64_t> blockHashes;
  std::vector<uint32_t> steps;
  std::vector<uint32_t> sums;
  uint32_t lastSum = 0;
  bool operator==(const Outcome&) const = default;
};

Outcome compute(const uint8_t* data, size_t size, size_t split, size_t blockBytes, unsigned filterBits) {
  Outcome outcome;
  deltahop::Key key{};
  std::memcpy(key.data(), data, std::min(size, key.size()));
  deltahop::Blake3 hasher = deltahop::Blake3::keyed(key);
  for (size_t at = 0; at < size; at += split) hasher.update({data + at, std::min(split, size - at)});
  outcome.digest = hasher.finish();
  if (blockBytes > size) return outcome;
  outcome.blockHashes.resize(size / blockBytes);
  deltahop::blake3KeyedBlocks(key, data, blockBytes, outcome.blockHashes.size(), outcome.blockHashes.data());

  // The filter is made of the data too.
  std::vector<uint32_t> filter(size_t{1} << (filterBits - 5));
  for (size_t i = 0; i < size; ++i) filter[i % filter.size()] ^= uint32_t{data[i]} << (i % 25);
  const deltahop::RollingHash rolling(key, blockBytes);
  const size_t count = size - blockBytes;
  outcome.steps.resize(count + deltahop::rollingkernel::kSlack);
  outcome.sums.resize(count + deltahop::rollingkernel::kSlack);
  deltahop::rollingkernel::Roll roll{.bytes = data,
                                     .windowBytes = blockBytes,
                                     .count = count,
                                     .powers = &rolling.powers(),
                                     .leavingPower = rolling.leavingPower(),
                                     .filter = filter.data(),
                                     .filterShift = 32 - filterBits,
                                     .sum = rolling.hash(data),
                                     .passedSteps = outcome.steps.data(),
                                     .passedSums = outcome.sums.data()};
  const size_t passed = deltahop::kernels().rollingScan(roll);
  outcome.steps.resize(passed);
  outcome.sums.resize(passed);
  outcome.lastSum = roll.sum;
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 4) return 0;
  const size_t split = size_t{data[0]} * 16 + 1;
  const size_t blockBytes = data[3] < 128 ? size_t{1} << (data[1] % 14) : size_t{data[1]} + 1;
  const unsigned filterBits = 5 + data[2] % 12;
  std::optional<Outcome> first;
  for (const deltahop::Kernels& set : deltahop::availableKernels()) {
    deltahop::useKernels(set);
    Outcome outcome = compute(data + 4, size - 4, split, blockBytes, filterBits);
    if (!first.has_value())
      first.emplace(std::move(outcome));
    else if (!(*first == outcome))
      std::abort();
  }
  return 0;
}
