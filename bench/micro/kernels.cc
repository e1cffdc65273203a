#include "kernels.h"

#include <benchmark/benchmark.h>

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "hash/blake3.h"
#include "hash/content_digest.h"
#include "hash/kernels.h"
#include "hash/rolling_hash.h"
#include "io/file.h"
#include "match/matcher.h"
#include "signature/signature.h"

namespace deltahop::micro {
namespace {

constexpr size_t kDataBytes = size_t{64} << 20;
constexpr size_t kPageBytes = 4096;
constexpr size_t kPieceBytes = 256 << 10;
constexpr Key kKey = {1, 2, 3};

// Random, so that no two pages are alike.
Bytes makeData(uint64_t seed) {
  Bytes data(kDataBytes);
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < data.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(data.data() + i, &word, 8);
  }
  return data;
}

const Bytes& data() {
  static const Bytes made = makeData(1);
  return made;
}

class NullSink : public DeltaSink {
 public:
  Status copy(uint64_t, uint64_t) override { return {}; }
  Status literal(ByteSpan) override { return {}; }
  Status zeros(uint64_t) override { return {}; }
};

Signature signatureOf(const Bytes& basis) {
  SignatureWriter writer(kPageBytes, kKey, false);
  SignatureParser parser(kKey);
  const uint64_t fileBytes[] = {basis.size()};
  if (!writer.addBlocks(0, basis).ok()) std::abort();
  writer.finish(fileBytes);
  if (!parser.feed(writer.take()).ok()) std::abort();
  return parser.finish().value();
}

const Signature& signature() {
  static const Signature made = signatureOf(data());
  return made;
}

void matchAgainst(const Signature& basis, ByteSpan target) {
  const SignatureIndex index(basis);
  NullSink sink;
  Matcher matcher(index, sink);
  if (!matcher.feed(target).ok() || !matcher.finish().ok()) std::abort();
  benchmark::DoNotOptimize(matcher.statistics().matchedBytes);
}

void blake3Segments() {
  ContentHasher hasher;
  for (size_t at = 0; at < data().size(); at += kPieceBytes) hasher.update(ByteSpan(data()).subspan(at, kPieceBytes));
  benchmark::DoNotOptimize(hasher.finish());
}

void blake3KeyedPages() {
  constexpr size_t kPages = kPieceBytes / kPageBytes;
  uint64_t hashes[kPages];
  for (size_t at = 0; at < data().size(); at += kPieceBytes) {
    blake3KeyedBlocks(kKey, data().data() + at, kPageBytes, kPages, hashes);
    benchmark::DoNotOptimize(hashes);
  }
}

void blake3SmallInputs() {
  for (size_t at = 0; at < data().size(); at += 1024) {
    benchmark::DoNotOptimize(blake3(ByteSpan(data()).subspan(at, 1024)));
  }
}

void rollingSumOfPages() {
  const RollingHash rolling(kKey, kPageBytes);
  for (size_t at = 0; at < data().size(); at += kPageBytes) benchmark::DoNotOptimize(rolling.hash(data().data() + at));
}

// Every offset, with the filter of a signature of 64 MiB.
void rollingScanDense() {
  static const SignatureIndex index(signature());
  const RollingHash& rolling = index.rolling();
  constexpr size_t kCount = 2048;
  std::vector<uint32_t> steps(kCount + rollingkernel::kSlack);
  std::vector<uint32_t> sums(kCount + rollingkernel::kSlack);
  static const Bytes other = makeData(2);
  rollingkernel::Roll roll{.bytes = other.data(),
                           .windowBytes = kPageBytes,
                           .count = kCount,
                           .powers = &rolling.powers(),
                           .leavingPower = rolling.leavingPower(),
                           .filter = index.filterWords(),
                           .filterShift = index.filterShift(),
                           .sum = rolling.hash(other.data()),
                           .passedSteps = steps.data(),
                           .passedSums = sums.data()};
  for (size_t at = 0; at + kCount + kPageBytes <= other.size(); at += kCount) {
    roll.bytes = other.data() + at;
    benchmark::DoNotOptimize(kernels().rollingScan(roll));
  }
}

void matcherNothingMatches() {
  static const Bytes other = makeData(2);
  matchAgainst(signature(), other);
}

void matcherAllMatches() {
  matchAgainst(signature(), data());
}

void matcherOneByteInserted() {
  static const Bytes shifted = [] {
    Bytes made = data();
    made.insert(made.begin(), uint8_t{7});
    return made;
  }();
  matchAgainst(signature(), shifted);
}

void zeroTest() {
  static const Bytes zeros(kDataBytes);
  for (size_t at = 0; at < zeros.size(); at += kPageBytes) {
    benchmark::DoNotOptimize(isZero(ByteSpan(zeros).subspan(at, kPageBytes)));
  }
}

void add(const std::string& name, const Kernels& set, void (*pass)()) {
  benchmark::RegisterBenchmark((name + "/" + set.name).c_str(), [&set, pass](benchmark::State& state) {
    const Kernels& before = kernels();
    useKernels(set);
    for (auto iteration : state) {
      (void)iteration;
      pass();
    }
    state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(kDataBytes));
    useKernels(before);
  });
}

}  // namespace

void registerKernels() {
  const struct {
    const char* name;
    void (*pass)();
  } benchmarks[] = {
      {"blake3 content digest", blake3Segments},          {"blake3 keyed, 4 KiB pages side by side", blake3KeyedPages},
      {"blake3 of 1 KiB, one by one", blake3SmallInputs}, {"rolling sum of 4 KiB blocks", rollingSumOfPages},
      {"rolling scan of every offset", rollingScanDense}, {"matcher, nothing matches", matcherNothingMatches},
      {"matcher, all matches", matcherAllMatches},        {"matcher, one byte inserted", matcherOneByteInserted},
  };
  for (const auto& each : benchmarks) {
    for (const Kernels& set : availableKernels()) add(each.name, set, each.pass);
  }
  // Left to the C library, which chooses by itself.
  add("zero test of 4 KiB pages", availableKernels().front(), zeroTest);
}

}  // namespace deltahop::micro
