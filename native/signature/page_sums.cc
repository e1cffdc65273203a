#include "signature/page_sums.h"

#include <algorithm>
#include <optional>

#include "hash/blake3.h"
#include "hash/rolling_hash.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr uint64_t kReadAtOnceBytes = 1 << 20;

}  // namespace

void SumQuery::add(uint64_t block, uint64_t count) {
  if (!runs.empty() && runs.back().first + runs.back().count == block) {
    runs.back().count += count;
  } else {
    runs.push_back({block, count});
  }
}

uint64_t SumQuery::blocks() const {
  uint64_t blocks = 0;
  for (const BlockRun& run : runs) blocks += run.count;
  return blocks;
}

Bytes encodeRuns(const SumQuery& query) {
  Bytes output;
  Writer writer(output);
  uint64_t expected = 0;
  for (const BlockRun& run : query.runs) {
    const auto skip = static_cast<int64_t>(run.first - expected);
    writer.varint((static_cast<uint64_t>(skip) << 1) ^ static_cast<uint64_t>(skip >> 63));
    writer.varint(run.count);
    expected = run.first + run.count;
  }
  return output;
}

Status decodeRuns(ByteSpan input, uint64_t basisBytes, uint64_t maxBlocks, SumQuery& query) {
  Reader reader(input);
  const uint64_t held = basisBytes >> query.blockShift;
  uint64_t expected = 0;
  query.runs.clear();
  while (reader.remaining() > 0) {
    DH_TRY(const uint64_t zigzag, reader.varint());
    DH_TRY(const uint64_t count, reader.varint());
    const uint64_t first = expected + ((zigzag >> 1) ^ -(zigzag & 1));
    if (count == 0 || first > held || count > held - first) return Error{Code::kCorrupt, "sums of no block", 0};
    if (count > maxBlocks) return Error{Code::kLimit, "too many sums asked for", 0};
    maxBlocks -= count;
    query.runs.push_back({first, count});
    expected = first + count;
  }
  if (query.runs.empty()) return Error{Code::kCorrupt, "no sums asked for", 0};
  return {};
}

Status PageSums::append(Bytes& output, unsigned blockShift, unsigned sumBytes, const BlockRun& run, bool isRolling) {
  const uint64_t blockBytes = uint64_t{1} << blockShift;
  std::optional<RollingHash> rolling;
  if (isRolling) rolling.emplace(key_, blockBytes);
  const auto put = [&](const uint8_t* block, uint64_t hash) {
    unsigned left = sumBytes;
    if (rolling.has_value()) {
      const uint32_t weak = rolling->hash(block);
      for (unsigned i = 0; i < kWeakSumBytes; ++i, --left) output.push_back(static_cast<uint8_t>(weak >> (8 * i)));
    }
    for (unsigned i = 0; i < left; ++i) output.push_back(static_cast<uint8_t>(hash >> (8 * i)));
  };
  uint64_t position = run.first << blockShift;
  const uint64_t end = std::min((run.first + run.count) << blockShift, basis_.size());
  uint64_t zeroHash = 0;
  bool zeroKnown = false;
  while (position < end) {
    if (position < extent_.offset || position >= extent_.end()) {
      DH_TRY(extent_, basis_.nextExtent(position));
    }
    const uint64_t stop = std::min(extent_.end(), end);
    const uint64_t holes = extent_.isHole ? (stop - position) >> blockShift : 0;
    if (holes > 0) {
      if (!zeroKnown || isRolling) {
        buffer_.assign(std::max<uint64_t>(blockBytes, buffer_.size()), 0);
        blake3KeyedBlocks(key_, buffer_.data(), blockBytes, 1, &zeroHash);
        zeroKnown = true;
      }
      for (uint64_t i = 0; i < holes; ++i) put(buffer_.data(), zeroHash);
      position += holes << blockShift;
      continue;
    }
    const uint64_t wholeStop = std::min((stop + blockBytes - 1) >> blockShift << blockShift, end);
    const uint64_t length = std::min(wholeStop - position, kReadAtOnceBytes);
    if (buffer_.size() < length) buffer_.resize(length);
    DH_CHECK(basis_.readAt(position, {buffer_.data(), length}));
    readBytes_ += length;
    const size_t whole = length >> blockShift;
    const size_t rest = length & (blockBytes - 1);
    hashes_.resize(whole + 1);
    blake3KeyedBlocks(key_, buffer_.data(), blockBytes, whole, hashes_.data());
    if (rest > 0) blake3KeyedBlocks(key_, buffer_.data() + (whole << blockShift), rest, 1, &hashes_[whole]);
    for (size_t i = 0; i < whole + (rest > 0 ? 1 : 0); ++i) put(buffer_.data() + (i << blockShift), hashes_[i]);
    position += length;
  }
  return {};
}

}  // namespace deltahop
