// Sums of blocks of a basis at a fixed grid, coarse to fine, as the other side asks for them. FORMATS.md section 9.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "io/basis.h"
#include "wire/reader.h"

namespace deltahop {

/// The coarsest blocks: their sums are given without being asked for, of 8 bytes each, the last block may be short.
inline constexpr unsigned kSumSegmentShift = 18;
inline constexpr uint64_t kSumSegmentBytes = uint64_t{1} << kSumSegmentShift;
/// The finest that may be asked for.
inline constexpr unsigned kMinQueryShift = 6;
inline constexpr unsigned kMinSumBytes = 2;
inline constexpr unsigned kMaxSumBytes = 8;
/// No larger basis is spoken of in this way.
inline constexpr uint64_t kMaxSummedBytes = uint64_t{64} << 30;

/// Blocks that lie one after the other.
struct BlockRun {
  uint64_t first = 0;
  uint64_t count = 0;
};

/// A rolling sum's first bytes are the weak one, by which a block is found at any offset.
inline constexpr unsigned kWeakSumBytes = 4;

/// Which blocks' sums are wanted, all of one size and whole.
struct SumQuery {
  unsigned blockShift = 0;  // blocks of 1 << blockShift bytes
  unsigned sumBytes = 0;    // of each hash, its first; of a rolling sum, the weak one and the hash's first
  std::vector<BlockRun> runs;
  bool isRolling = false;

  /// Adds a block; neighbours become one run.
  void add(uint64_t block, uint64_t count = 1);
  uint64_t blocks() const;
  /// Bytes of all sums.
  uint64_t answerBytes() const { return blocks() * sumBytes; }
  /// Bytes of the basis that must be read for them.
  uint64_t readBytes() const { return blocks() << blockShift; }
};

/// What the runs of a query look like in a message.
Bytes encodeRuns(const SumQuery& query);
/// Fills the runs of a query from there; kCorrupt for blocks that a basis of `basisBytes` does not hold whole, kLimit
/// for more than `maxBlocks`.
Status decodeRuns(ByteSpan input, uint64_t basisBytes, uint64_t maxBlocks, SumQuery& query);

/// Makes sums of a basis: the first bytes of keyed BLAKE3 hashes. Holes are not read.
class PageSums {
 public:
  /// Both must outlive this.
  PageSums(const Basis& basis, const Key& key) : basis_(basis), key_(key) {}

  /// Appends the sums of one run of blocks, of which the last may be short unless they are rolling ones.
  Status append(Bytes& output, unsigned blockShift, unsigned sumBytes, const BlockRun& run, bool isRolling = false);
  uint64_t readBytes() const { return readBytes_; }

 private:
  const Basis& basis_;
  const Key& key_;
  Extent extent_;  // the last one that was looked for
  Bytes buffer_;
  std::vector<uint64_t> hashes_;
  uint64_t readBytes_ = 0;
};

/// The first `sumBytes` bytes of a hash, as they were written.
inline uint64_t firstBytes(uint64_t hash, unsigned sumBytes) {
  return sumBytes >= 8 ? hash : hash & ((uint64_t{1} << (8 * sumBytes)) - 1);
}

/// Reads one sum.
inline uint64_t sumAt(const uint8_t* sums, unsigned sumBytes) {
  uint64_t sum = 0;
  for (unsigned i = 0; i < sumBytes; ++i) sum |= uint64_t{sums[i]} << (8 * i);
  return sum;
}

}  // namespace deltahop
