// The matcher: finds the content of a basis, by its signature, at any byte offset of a target.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "hash/content_digest.h"
#include "hash/rolling_hash.h"
#include "io/file.h"
#include "signature/signature.h"

namespace deltahop {

/// Takes the instructions of a delta in the order of the target. Lengths are never 0.
class DeltaSink {
 public:
  virtual ~DeltaSink() = default;
  virtual Status copy(uint64_t basisOffset, uint64_t length) = 0;
  virtual Status literal(ByteSpan data) = 0;
  virtual Status zeros(uint64_t length) = 0;
};

struct MatchStatistics {
  uint64_t readBytes = 0;  // bytes of the target looked at (holes are not)
  uint64_t matchedBytes = 0;
  uint64_t literalBytes = 0;
  uint64_t zeroBytes = 0;
  uint64_t falseMatches = 0;   // weak sum found, strong hash different
  uint64_t probedOffsets = 0;  // offsets whose weak sum was looked up
  uint64_t triedWindows = 0;   // offsets that were looked up in the index behind the filters
};

/// The search index of a signature; may be shared by several matchers. The signature must outlive it.
///
/// A signature that is still being read has an index too: of the entries so far, but for the last one, as nobody knows
/// yet whether its block is a short one.
class SignatureIndex {
 public:
  explicit SignatureIndex(const Signature& signature, bool isWhole = true);

  /// More of the signature has been read; with `isWhole` that was all.
  void update(bool isWhole);
  bool isWhole() const { return isWhole_; }
  /// Entries that are known.
  size_t entries() const { return entries_; }
  /// Bytes of an entry's block.
  size_t lengthOf(size_t entry) const {
    return isWhole_ ? signature_.blockLength(signature_.blocks[entry]) : signature_.blockBytes;
  }

  const Signature& signature() const { return signature_; }
  const RollingHash& rolling() const { return rolling_; }
  /// No block of full length to look for.
  bool isEmpty() const { return slots_.empty(); }
  /// Entries of blocks shorter than the block size: where a file of the basis ends.
  const std::vector<uint32_t>& shortEntries() const { return shortEntries_; }
  /// The first prefilter, 512 KiB at most so that it stays in the cache: one bit at `weak >> filterShift()`, set for
  /// every block of the signature.
  const uint32_t* filterWords() const { return filter_.data(); }
  unsigned filterShift() const { return filterShift_; }
  /// The second prefilter, over other bits of the sum, for those that passed the first.
  bool mayContain(uint32_t weak) const {
    const uint32_t bit = weak * kSecondMultiplier >> filterShift_;
    return (secondFilter_[bit >> 5] >> (bit & 31) & 1) != 0;
  }
  /// Entries with this weak sum, at most kMaxCandidates; only the first of equal blocks is there.
  size_t candidates(uint32_t weak, std::span<uint32_t> entries) const;
  /// The entry of a block number, or -1.
  int64_t entryOfBlock(uint64_t block) const;

  static constexpr size_t kMaxCandidates = 8;

 private:
  struct Slot {
    uint32_t weak = 0;
    uint32_t entryPlusOne = 0;
  };
  static constexpr uint32_t kSecondMultiplier = 0x9E3779B1;

  void clear(size_t room);
  void add(size_t entry);

  const Signature& signature_;
  RollingHash rolling_;
  bool isWhole_ = false;
  size_t entries_ = 0;
  std::vector<uint32_t> filter_;
  std::vector<uint32_t> secondFilter_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> shortEntries_;
  unsigned filterShift_ = 0;
  unsigned slotShift_ = 0;
};

/// One pass over one target. Memory: two blocks and 1.5 MiB.
///
/// Every offset is looked at, until nothing has matched for long: then all offsets of one block length in every two,
/// four and at last eight block lengths. That misses no run of matches of nine blocks and more (what was passed over is
/// compared backwards from the first match found, which ends it), and makes the search cost less than reading the file.
///
/// While the index is not whole it goes no further than the whole one would have let it: from one match to the next one
/// that is less than a block away, as no other fits in between. Otherwise it is stalled.
class Matcher {
 public:
  /// Both must outlive the matcher. The index knows an entry, or is whole.
  /// With `everyOffset` all are looked at, whatever that costs: for what is likely to match in single blocks.
  Matcher(const SignatureIndex& index, DeltaSink& sink, bool everyOffset = false);

  /// Free room of the input buffer (never empty): read the target's next bytes into it, then call advance().
  std::span<uint8_t> room();
  /// `count` bytes of room() are filled.
  Status advance(size_t count);
  /// The same for bytes that are elsewhere: copies.
  Status feed(ByteSpan data);
  /// A hole or a run of zeros that was not read. Only with a whole index.
  Status feedZeros(uint64_t count);
  /// The target ended. Only with a whole index.
  Status finish();
  /// It waits for more of the index, and nothing may be fed.
  bool isStalled() const { return stalled_; }
  /// To be called whenever the index has grown.
  Status resume();
  bool hasWholeIndex() const { return whole_; }

  const MatchStatistics& statistics() const { return statistics_; }

 private:
  enum class Step : uint8_t { kAdvanced, kNothing, kNeedsMore, kStalled };

  Status process(bool isEnd);
  void expectAfter(size_t entry);
  Result<Step> continueCopy(bool isEnd);
  Result<Step> endZeroRun(bool isEnd);
  Status scan(size_t scanEnd, bool afterCopy);
  Result<bool> probe(size_t from, size_t until);
  Result<bool> tryWindow(size_t at, uint32_t weak);
  size_t strideBlocks() const;
  void startDense();
  size_t blocksBefore(size_t at, uint32_t entry);
  Status matchShortEnd();
  Status copyTo(size_t at, uint32_t entry, size_t blocks, size_t length);
  Status flushLiteral(size_t until);
  void findZeroRun();
  void compact();
  int64_t findWindow(size_t at, uint32_t weak);
  int64_t entryOnDiagonal(uint64_t targetOffset, int64_t diagonal) const;
  uint64_t strongOf(const uint8_t* bytes, size_t length) const;
  uint64_t targetOffset(size_t at) const { return bufferOffset_ + at; }

  const SignatureIndex& index_;
  const Signature& signature_;
  DeltaSink& sink_;
  const size_t blockBytes_;
  const size_t minZeroRun_;
  const size_t maxStrideBlocks_;
  const size_t capacity_;
  std::unique_ptr<uint8_t[]> buffer_;
  uint64_t bufferOffset_ = 0;  // of buffer_[0] in the target
  size_t literalStart_ = 0;    // first byte of the target without an instruction
  size_t position_ = 0;        // next byte to look at; between the two all is literal
  size_t end_ = 0;             // bytes in the buffer
  size_t zeroStart_ = 0;       // the next run of zeros that is long enough, or end_
  size_t zeroEnd_ = 0;
  bool zerosFollow_ = false;   // after end_ come zeros that the buffer will not get
  uint64_t pendingZeros_ = 0;  // zeros right before position_, without an instruction yet
  int64_t nextEntry_ = -1;     // the entry that would continue the last copy at position_
  int64_t lastEntry_ = -1;     // that of the last copy, if nobody knows yet what follows on it
  bool whole_;                 // so is the index
  bool stalled_ = false;
  int64_t diagonal_ = 0;      // basis offset minus target offset of the last copy
  uint64_t barrenBytes_ = 0;  // literals since the last match
  size_t skipBytes_ = 0;      // from position_ on, not to be looked at
  size_t probeBytes_ = 0;     // from there on, yet to be looked at before more is skipped
  uint64_t credit_;           // bytes that may yet be hashed in vain
  size_t batch_ = 1;          // blocks to hash side by side while a copy goes on
  std::vector<uint64_t> hashes_;
  Bytes scratch_;
  MatchStatistics statistics_;
};

/// A file on its way through a matcher and a content hasher: holes are not read, the size is the one at the start. All
/// must outlive it.
class FileMatch {
 public:
  FileMatch(const File& file, Matcher& matcher, ContentHasher& hasher)
      : file_(file), matcher_(matcher), hasher_(hasher) {}

  /// Goes on until all of the file was fed or, as long as its index is not whole, the matcher can go no further.
  /// `onProgress` is told the bytes done; returning false ends with kCancelled. Errors: kIo, kChanged if the file
  /// shrank, the sink's.
  Status run(const std::function<bool(uint64_t)>& onProgress = {});

 private:
  const File& file_;
  Matcher& matcher_;
  ContentHasher& hasher_;
  std::optional<uint64_t> fileBytes_;
  uint64_t offset_ = 0;
};

/// Runs a whole file through a matcher with a whole index, as FileMatch does.
Status matchFile(const File& file, Matcher& matcher, ContentHasher& hasher,
                 const std::function<bool(uint64_t)>& onProgress = {});

}  // namespace deltahop
