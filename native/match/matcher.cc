#include "match/matcher.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "hash/blake3.h"

namespace deltahop {
namespace {

// Shorter runs of zeros are not worth an instruction of their own; blocks that begin inside a run are looked for only
// on the diagonals, so a run is never shorter than a block unless blocks are large.
constexpr size_t kMaxMinZeroRun = 64 * 1024;
constexpr size_t kMinZeroRunWithoutBasis = 4096;
constexpr size_t kReadAheadBytes = 1 << 20;
constexpr size_t kReadAtOnceBytes = 256 * 1024;
constexpr unsigned kMaxFilterBitsLog2 = 22;
// A signature comes from outside: neither building nor asking the index may depend on how its sums cluster.
constexpr size_t kMaxProbes = 64;
constexpr size_t kMaxBatchBytes = 32 * 1024;
constexpr uint32_t kMinScanChunk = 128;
constexpr uint32_t kMaxScanChunk = 2048;
// Every offset is looked at for so long after a match, and so are all of a short file. Of regions with single blocks
// that match far from each other, sparse probing finds one in eight.
constexpr uint64_t kMinDenseBytes = 1 << 20;
constexpr uint64_t kMinDenseBlocks = 64;
constexpr size_t kMaxStrideBlocks = 8;
// Bytes of literals that are held back so that a match found late can reach back over what was not looked at.
constexpr size_t kMaxHeldBytes = 512 * 1024;
// Whoever crafts a file can make weak sums equal, and each would cost the hash of a block: so hashes in vain are paid
// for, byte by byte, with offsets that were looked at. A look into the index costs less, but more than the filters.
constexpr uint64_t kStartCreditBlocks = 64;
constexpr uint64_t kLookCredit = 8;

}  // namespace

SignatureIndex::SignatureIndex(const Signature& signature, bool isWhole)
    : signature_(signature), rolling_(signature.key, signature.blockBytes) {
  update(isWhole);
}

void SignatureIndex::update(bool isWhole) {
  const std::vector<uint32_t>& blocks = signature_.blocks;
  const size_t before = entries_;
  isWhole_ = isWhole;
  entries_ = blocks.size() - (isWhole || blocks.empty() ? 0 : 1);
  if (entries_ == 0) return;
  if (!isWhole) {
    if (entries_ * 2 > slots_.size()) {
      clear(entries_);  // twice as large as before
      for (size_t entry = 0; entry < entries_; ++entry) add(entry);
    } else {
      for (size_t entry = before; entry < entries_; ++entry) add(entry);
    }
    return;
  }
  // Files end in few blocks: look there, not at every block.
  for (const BasisSpan& file : signature_.files) {
    if (file.bytes % signature_.blockBytes == 0) continue;
    const int64_t entry = entryOfBlock(file.end() / signature_.blockBytes);
    if (entry >= 0) shortEntries_.push_back(static_cast<uint32_t>(entry));
  }
  slots_.clear();
  if (shortEntries_.size() == entries_) return;
  clear(entries_);
  size_t nextShort = 0;
  std::vector<uint32_t> shorts = shortEntries_;
  std::sort(shorts.begin(), shorts.end());
  for (size_t entry = 0; entry < entries_; ++entry) {
    if (nextShort < shorts.size() && shorts[nextShort] == entry) {
      ++nextShort;
    } else {
      add(entry);
    }
  }
}

// Begins anew, with room for so many entries.
void SignatureIndex::clear(size_t room) {
  const unsigned slotBits = static_cast<unsigned>(std::bit_width(std::bit_ceil(room * 2)) - 1);
  const unsigned filterBits = std::clamp(slotBits + 4, 6u, kMaxFilterBitsLog2);
  filterShift_ = 32 - filterBits;
  filter_.assign(size_t{1} << (filterBits - 5), 0);
  secondFilter_.assign(filter_.size(), 0);
  slotShift_ = 32 - slotBits;
  slots_.assign(size_t{1} << slotBits, Slot{});
}

void SignatureIndex::add(size_t entry) {
  const size_t mask = slots_.size() - 1;
  const uint32_t weak = signature_.weak[entry];
  size_t same = 0;
  for (size_t probe = 0; probe < kMaxProbes && same < kMaxCandidates; ++probe) {
    Slot& slot = slots_[((weak >> slotShift_) + probe) & mask];
    if (slot.entryPlusOne == 0) {
      slot = {weak, static_cast<uint32_t>(entry + 1)};
      const uint32_t bit = weak >> filterShift_;
      filter_[bit >> 5] |= uint32_t{1} << (bit & 31);
      const uint32_t secondBit = weak * kSecondMultiplier >> filterShift_;
      secondFilter_[secondBit >> 5] |= uint32_t{1} << (secondBit & 31);
      return;
    }
    if (slot.weak != weak) continue;
    if (signature_.strong[slot.entryPlusOne - 1] == signature_.strong[entry]) return;
    ++same;
  }
}

size_t SignatureIndex::candidates(uint32_t weak, std::span<uint32_t> entries) const {
  const size_t mask = slots_.size() - 1;
  size_t found = 0;
  for (size_t probe = 0; probe < kMaxProbes && found < entries.size(); ++probe) {
    const Slot& slot = slots_[((weak >> slotShift_) + probe) & mask];
    if (slot.entryPlusOne == 0) break;
    if (slot.weak == weak) entries[found++] = slot.entryPlusOne - 1;
  }
  return found;
}

int64_t SignatureIndex::entryOfBlock(uint64_t block) const {
  const std::span<const uint32_t> blocks = std::span(signature_.blocks).first(entries_);
  if (blocks.empty() || block > blocks.back()) return -1;
  // Without holes an entry's number is its block's.
  if (block < blocks.size() && blocks[block] == block) return static_cast<int64_t>(block);
  const auto place = std::lower_bound(blocks.begin(), blocks.end(), static_cast<uint32_t>(block));
  if (*place != block) return -1;
  return place - blocks.begin();
}

Matcher::Matcher(const SignatureIndex& index, DeltaSink& sink, bool everyOffset)
    : index_(index),
      signature_(index.signature()),
      sink_(sink),
      blockBytes_(signature_.blocks.empty() ? kMinZeroRunWithoutBasis : signature_.blockBytes),
      minZeroRun_(std::min(blockBytes_, kMaxMinZeroRun)),
      maxStrideBlocks_(everyOffset ? 1 : std::clamp<size_t>(kMaxHeldBytes / blockBytes_, 1, kMaxStrideBlocks)),
      capacity_(2 * blockBytes_ + kReadAheadBytes + (maxStrideBlocks_ - 1) * blockBytes_),
      buffer_(std::make_unique_for_overwrite<uint8_t[]>(capacity_)),
      nextEntry_(index.entryOfBlock(0)),
      whole_(index.isWhole()),
      credit_(kStartCreditBlocks * blockBytes_) {}

std::span<uint8_t> Matcher::room() {
  return {buffer_.get() + end_, capacity_ - end_};
}

Status Matcher::advance(size_t count) {
  end_ += count;
  statistics_.readBytes += count;
  // Only full buffers are worked on: each start costs the sum of one whole window.
  if (end_ == capacity_) DH_CHECK(process(false));
  return {};
}

Status Matcher::feed(ByteSpan data) {
  while (!data.empty()) {
    const std::span<uint8_t> free = room();
    const size_t taken = std::min(free.size(), data.size());
    std::memcpy(free.data(), data.data(), taken);
    DH_CHECK(advance(taken));
    data = data.subspan(taken);
  }
  return {};
}

Status Matcher::feedZeros(uint64_t count) {
  while (count > 0) {
    if (position_ == end_ && literalStart_ == end_ && (pendingZeros_ > 0 || count >= minZeroRun_)) {
      // Nothing before the zeros is waiting for them.
      nextEntry_ = -1;
      lastEntry_ = -1;
      pendingZeros_ += count;
      bufferOffset_ += count;
      break;
    }
    // Blocks may begin before the zeros and reach into them: one block of zeros is looked at like data.
    if (capacity_ - end_ < blockBytes_) DH_CHECK(process(false));
    const size_t taken = std::min<uint64_t>(count, blockBytes_);
    std::memset(buffer_.get() + end_, 0, taken);
    end_ += taken;
    count -= taken;
    if (count > 0) {
      zerosFollow_ = true;
      const Status status = process(false);
      zerosFollow_ = false;
      DH_CHECK(status);
    } else if (end_ == capacity_) {
      DH_CHECK(process(false));
    }
  }
  return {};
}

Status Matcher::finish() {
  DH_CHECK(process(true));
  return {};
}

Status Matcher::resume() {
  if (whole_) return {};
  // There may be something now where nothing was found.
  position_ -= barrenBytes_;
  barrenBytes_ = 0;
  whole_ = index_.isWhole();
  return process(false);
}

uint64_t Matcher::strongOf(const uint8_t* bytes, size_t length) const {
  uint64_t hash;
  blake3KeyedBlocks(signature_.key, bytes, length, 1, &hash);
  return signature_.shortened(hash);
}

Status Matcher::flushLiteral(size_t until) {
  if (until == literalStart_) return {};
  const ByteSpan data(buffer_.get() + literalStart_, until - literalStart_);
  literalStart_ = until;
  statistics_.literalBytes += data.size();
  return sink_.literal(data);
}

// Copies `blocks` neighbouring entries from `entry` on, in all `length` bytes, to where they were found.
Status Matcher::copyTo(size_t at, uint32_t entry, size_t blocks, size_t length) {
  DH_CHECK(flushLiteral(at));
  const uint64_t basisOffset = uint64_t{signature_.blocks[entry]} * signature_.blockBytes;
  diagonal_ = static_cast<int64_t>(basisOffset) - static_cast<int64_t>(targetOffset(at));
  position_ = at + length;
  literalStart_ = position_;
  startDense();
  expectAfter(entry + blocks - 1);
  statistics_.matchedBytes += length;
  return sink_.copy(basisOffset, length);
}

// The copy that ended with this entry may go on with the next one.
void Matcher::expectAfter(size_t entry) {
  const size_t next = entry + 1;
  const bool goesOn = next < index_.entries() && signature_.blocks[next] == signature_.blocks[entry] + 1;
  nextEntry_ = goesOn ? static_cast<int64_t>(next) : -1;
  lastEntry_ = next < index_.entries() || index_.isWhole() ? -1 : static_cast<int64_t>(entry);
}

int64_t Matcher::entryOnDiagonal(uint64_t targetOffset, int64_t diagonal) const {
  const int64_t basisOffset = static_cast<int64_t>(targetOffset) + diagonal;
  if (basisOffset < 0 || static_cast<uint64_t>(basisOffset) % signature_.blockBytes != 0) return -1;
  return index_.entryOfBlock(static_cast<uint64_t>(basisOffset) / signature_.blockBytes);
}

// Copies the blocks that follow the last one copied for as long as they are the same.
Result<Matcher::Step> Matcher::continueCopy(bool isEnd) {
  for (;;) {
    if (lastEntry_ >= 0) expectAfter(static_cast<size_t>(lastEntry_));
    if (lastEntry_ >= 0) return Step::kStalled;
    if (nextEntry_ < 0) break;
    const auto entry = static_cast<uint32_t>(nextEntry_);
    const size_t length = index_.lengthOf(entry);
    const size_t available = end_ - position_;
    if (available < length) {
      // What is short of bytes because zeros follow is found again at the end of those.
      if (!isEnd && !zerosFollow_) return Step::kNeedsMore;
      nextEntry_ = -1;
      break;
    }
    size_t blocks = 1;
    if (length == blockBytes_) {
      const size_t most = std::min(batch_, available / blockBytes_);
      while (blocks < most && entry + blocks < index_.entries() &&
             signature_.blocks[entry + blocks] == signature_.blocks[entry] + blocks &&
             index_.lengthOf(entry + blocks) == blockBytes_) {
        ++blocks;
      }
    }
    hashes_.resize(std::max(hashes_.size(), blocks));
    blake3KeyedBlocks(signature_.key, buffer_.get() + position_, length, blocks, hashes_.data());
    size_t same = 0;
    while (same < blocks && signature_.shortened(hashes_[same]) == signature_.strong[entry + same]) ++same;
    if (same == 0) {
      nextEntry_ = -1;
      batch_ = 1;
      return Step::kNothing;
    }
    batch_ = same == blocks ? std::clamp<size_t>(kMaxBatchBytes / blockBytes_, 1, 2 * batch_) : 1;
    DH_CHECK(copyTo(position_, entry, same, same * length));
  }
  return Step::kNothing;
}

// What comes after a run of zeros: perhaps a block that begins with zeros of the run, looked for where the last copy or
// the same offset would put it. Otherwise the run becomes an instruction of its own.
Result<Matcher::Step> Matcher::endZeroRun(bool isEnd) {
  while (position_ < end_ && buffer_[position_] == 0) {
    ++position_;
    ++pendingZeros_;
  }
  literalStart_ = position_;
  if (position_ == end_ && !isEnd) return Step::kNeedsMore;
  if (position_ < end_) {
    const uint64_t here = targetOffset(position_);
    for (const int64_t diagonal : {diagonal_, int64_t{0}}) {
      // The last block of this diagonal that begins at `here` or before.
      const int64_t basisOffset = static_cast<int64_t>(here) + diagonal;
      if (basisOffset < 0) continue;
      const size_t before = static_cast<uint64_t>(basisOffset) % blockBytes_;
      const int64_t entry = index_.entryOfBlock(static_cast<uint64_t>(basisOffset) / blockBytes_);
      if (entry < 0 || before > pendingZeros_) continue;
      const size_t length = index_.lengthOf(static_cast<size_t>(entry));
      if (before >= length) continue;
      const size_t after = length - before;
      if (after > end_ - position_) {
        if (!isEnd && !zerosFollow_) return Step::kNeedsMore;
        continue;
      }
      scratch_.assign(length, 0);
      std::memcpy(scratch_.data() + before, buffer_.get() + position_, after);
      if (strongOf(scratch_.data(), length) != signature_.strong[static_cast<size_t>(entry)]) continue;
      const uint64_t zeros = pendingZeros_ - before;
      pendingZeros_ = 0;
      statistics_.zeroBytes += zeros;
      if (zeros > 0) DH_CHECK(sink_.zeros(zeros));
      // The block's first bytes are not in the buffer any more: the copy is told directly.
      const auto found = static_cast<uint32_t>(entry);
      const size_t at = position_;
      diagonal_ = diagonal;
      position_ = at + after;
      literalStart_ = position_;
      startDense();
      expectAfter(found);
      statistics_.matchedBytes += length;
      DH_CHECK(sink_.copy(uint64_t{signature_.blocks[found]} * signature_.blockBytes, length));
      return Step::kAdvanced;
    }
  }
  const uint64_t zeros = pendingZeros_;
  pendingZeros_ = 0;
  statistics_.zeroBytes += zeros;
  DH_CHECK(sink_.zeros(zeros));
  return Step::kAdvanced;
}

// Finds the next run of at least minZeroRun_ zeros from position_ on: [zeroStart_, zeroEnd_), or both at end_.
void Matcher::findZeroRun() {
  const uint8_t* bytes = buffer_.get();
  // A run of that length holds a whole word at a multiple of half of it.
  const size_t stride = minZeroRun_ / 2;
  size_t probe = (position_ + stride - 1) / stride * stride;
  size_t searched = position_;
  while (probe + 8 <= end_) {
    uint64_t word;
    std::memcpy(&word, bytes + probe, 8);
    if (word != 0) {
      probe += stride;
      continue;
    }
    size_t start = probe;
    while (start > searched && bytes[start - 1] == 0) --start;
    size_t stop = probe + 8;
    while (stop + 8 <= end_) {
      std::memcpy(&word, bytes + stop, 8);
      if (word != 0) break;
      stop += 8;
    }
    while (stop < end_ && bytes[stop] == 0) ++stop;
    if (stop - start >= minZeroRun_) {
      zeroStart_ = start;
      zeroEnd_ = stop;
      return;
    }
    searched = stop;
    probe = (stop + stride - 1) / stride * stride;
  }
  // Zeros at the very end are a run of any length if more follow.
  zeroEnd_ = end_;
  zeroStart_ = end_;
  if (zerosFollow_) {
    while (zeroStart_ > position_ && bytes[zeroStart_ - 1] == 0) --zeroStart_;
  }
}

// The entry whose block lies at `at`, or -1: the one that continues or keeps the offset before any other.
int64_t Matcher::findWindow(size_t at, uint32_t weak) {
  std::array<uint32_t, SignatureIndex::kMaxCandidates + 2> entries;
  size_t count = 0;
  for (const int64_t diagonal : {diagonal_, int64_t{0}}) {
    const int64_t entry = entryOnDiagonal(targetOffset(at), diagonal);
    if (entry < 0) continue;
    const auto found = static_cast<size_t>(entry);
    if (signature_.weak[found] == weak && index_.lengthOf(found) == blockBytes_) {
      entries[count++] = static_cast<uint32_t>(entry);
    }
  }
  count += index_.candidates(weak, std::span(entries).subspan(count, SignatureIndex::kMaxCandidates));
  if (count == 0) return -1;
  const uint64_t strong = strongOf(buffer_.get() + at, blockBytes_);
  for (size_t i = 0; i < count; ++i) {
    if (signature_.strong[entries[i]] == strong) return entries[i];
  }
  ++statistics_.falseMatches;
  credit_ -= blockBytes_;
  return -1;
}

// How many blocks apart the offsets of one block length are looked at.
size_t Matcher::strideBlocks() const {
  const uint64_t dense = std::max(kMinDenseBytes, kMinDenseBlocks * blockBytes_);
  size_t stride = 1;
  while (stride < maxStrideBlocks_ && barrenBytes_ >= dense * stride) stride *= 2;
  return std::min(stride, maxStrideBlocks_);
}

// Something matched: every offset counts again.
void Matcher::startDense() {
  barrenBytes_ = 0;
  skipBytes_ = 0;
  probeBytes_ = 0;
}

// How many blocks right before `at` are those right before `entry`.
size_t Matcher::blocksBefore(size_t at, uint32_t entry) {
  size_t most = std::min<size_t>((at - literalStart_) / blockBytes_, entry);
  size_t blocks = 0;
  while (blocks < most && signature_.blocks[entry - blocks - 1] + blocks + 1 == signature_.blocks[entry] &&
         index_.lengthOf(entry - blocks - 1) == blockBytes_) {
    ++blocks;
  }
  size_t same = 0;
  while (same < blocks) {
    const size_t batch = std::min(blocks - same, std::max<size_t>(kMaxBatchBytes / blockBytes_, 1));
    hashes_.resize(std::max(hashes_.size(), batch));
    const size_t first = same + batch;
    blake3KeyedBlocks(signature_.key, buffer_.get() + at - first * blockBytes_, blockBytes_, batch, hashes_.data());
    size_t equal = 0;
    while (equal < batch &&
           signature_.shortened(hashes_[batch - 1 - equal]) == signature_.strong[entry - same - equal - 1])
      ++equal;
    same += equal;
    if (equal < batch) break;
  }
  return same;
}

// Copies what lies at `at` if its sum, which passed the first filter, is that of a block and so is the rest. Says
// whether.
Result<bool> Matcher::tryWindow(size_t at, uint32_t weak) {
  if (!index_.mayContain(weak) || credit_ < kLookCredit + blockBytes_) return false;
  credit_ -= kLookCredit;
  ++statistics_.triedWindows;
  const int64_t found = findWindow(at, weak);
  if (found < 0) return false;
  const auto entry = static_cast<uint32_t>(found);
  const size_t before = strideBlocks() > 1 ? blocksBefore(at, entry) : 0;
  const auto first = static_cast<uint32_t>(entry - before);
  DH_CHECK(copyTo(at - before * blockBytes_, first, before + 1, (before + 1) * blockBytes_));
  return true;
}

// Looks at every offset in [from, until), which is not empty, until a block is found and copied; says whether.
Result<bool> Matcher::probe(size_t from, size_t until) {
  const RollingHash& rolling = index_.rolling();
  const uint8_t* bytes = buffer_.get();
  // Short pieces first: a match makes the rest of a piece wasted work.
  uint32_t piece = kMinScanChunk;
  uint32_t steps[kMaxScanChunk + rollingkernel::kSlack];
  uint32_t sums[kMaxScanChunk + rollingkernel::kSlack];
  rollingkernel::Roll roll{.bytes = bytes + from,
                           .windowBytes = blockBytes_,
                           .count = 0,
                           .powers = &rolling.powers(),
                           .leavingPower = rolling.leavingPower(),
                           .filter = index_.filterWords(),
                           .filterShift = index_.filterShift(),
                           .sum = rolling.hash(bytes + from),
                           .passedSteps = steps,
                           .passedSums = sums};
  const auto looked = [&](uint64_t count) {
    statistics_.probedOffsets += count;
    credit_ = std::min(credit_ + count, kStartCreditBlocks * blockBytes_);
  };
  looked(1);
  DH_TRY(bool found, tryWindow(from, roll.sum));
  for (size_t at = from; !found && at + 1 < until; at += roll.count) {
    roll.bytes = bytes + at;
    roll.count = std::min<size_t>(piece, until - 1 - at);
    const size_t passed = kernels().rollingScan(roll);
    looked(roll.count);
    for (size_t i = 0; !found && i < passed; ++i) {
      DH_TRY(found, tryWindow(at + steps[i], sums[i]));
    }
    piece = std::min(2 * piece, kMaxScanChunk);
  }
  return found;
}

// Looks for a block in [position_, scanEnd), at all offsets or, where nothing has matched for long, at some.
Status Matcher::scan(size_t scanEnd, bool afterCopy) {
  if (afterCopy && position_ + 2 * blockBytes_ <= end_) {
    // A block changed in place between two that did not is the usual case: see whether the copy goes on right after it.
    const int64_t entry = entryOnDiagonal(targetOffset(position_ + blockBytes_), diagonal_);
    if (entry >= 0) {
      const auto found = static_cast<uint32_t>(entry);
      const uint8_t* bytes = buffer_.get() + position_;
      if (index_.lengthOf(found) == blockBytes_ && !index_.mayContain(index_.rolling().hash(bytes)) &&
          strongOf(bytes + blockBytes_, blockBytes_) == signature_.strong[found]) {
        return copyTo(position_ + blockBytes_, found, 1, blockBytes_);
      }
    }
  }
  while (position_ < scanEnd) {
    const size_t skipped = std::min(skipBytes_, scanEnd - position_);
    skipBytes_ -= skipped;
    position_ += skipped;
    barrenBytes_ += skipped;
    if (position_ == scanEnd) break;
    const size_t stride = strideBlocks();
    if (probeBytes_ == 0) probeBytes_ = blockBytes_;
    // Where no offset is left out, rolling on is cheaper than starting anew.
    const size_t until = stride == 1 ? scanEnd : std::min(scanEnd, position_ + probeBytes_);
    DH_TRY(const bool found, probe(position_, until));
    if (found) break;
    const size_t probed = until - position_;
    barrenBytes_ += probed;
    probeBytes_ -= std::min(probeBytes_, probed);
    if (probeBytes_ == 0) skipBytes_ = (stride - 1) * blockBytes_;
    position_ = until;
  }
  return {};
}

// The target's last bytes may be the short last block of a basis file.
Status Matcher::matchShortEnd() {
  for (const uint32_t entry : index_.shortEntries()) {
    const size_t length = index_.lengthOf(entry);
    if (length > end_ - literalStart_) continue;
    if (strongOf(buffer_.get() + end_ - length, length) != signature_.strong[entry]) continue;
    return copyTo(end_ - length, entry, 1, length);
  }
  return {};
}

void Matcher::compact() {
  const size_t left = end_ - literalStart_;
  std::memmove(buffer_.get(), buffer_.get() + literalStart_, left);
  bufferOffset_ += literalStart_;
  position_ -= literalStart_;
  literalStart_ = 0;
  end_ = left;
}

Status Matcher::process(bool isEnd) {
  bool zeroRunKnown = false;
  stalled_ = false;
  for (;;) {
    if (pendingZeros_ > 0) {
      DH_TRY(const Step step, endZeroRun(isEnd));
      if (step == Step::kNeedsMore) break;
      continue;
    }
    bool afterCopy = false;
    if (nextEntry_ >= 0 || lastEntry_ >= 0) {
      DH_TRY(const Step step, continueCopy(isEnd));
      stalled_ = step == Step::kStalled;
      if (stalled_ || step == Step::kNeedsMore) break;
      afterCopy = true;
    }
    if (!zeroRunKnown || position_ > zeroStart_) {
      findZeroRun();
      zeroRunKnown = true;
    }
    if (position_ == zeroStart_ && zeroStart_ < zeroEnd_) {
      stalled_ = !whole_;
      if (stalled_) break;
      DH_CHECK(flushLiteral(position_));
      pendingZeros_ = zeroEnd_ - zeroStart_;
      position_ = zeroEnd_;
      literalStart_ = zeroEnd_;
      skipBytes_ = 0;
      probeBytes_ = 0;
      continue;
    }
    if (index_.isEmpty()) {
      if (position_ == end_) break;
      // Zeros at the end may yet become a run.
      size_t stop = zeroStart_;
      if (stop == end_ && !isEnd) {
        const size_t most = std::min(minZeroRun_, end_ - position_);
        while (end_ - stop < most && buffer_[stop - 1] == 0) --stop;
        if (stop == position_) break;
      }
      position_ = stop;
      if (stop < zeroStart_) break;
      continue;
    }
    const size_t windowEnd = end_ - position_ >= blockBytes_ ? end_ - blockBytes_ + 1 : position_;
    size_t scanEnd = std::min(zeroStart_, windowEnd);
    if (!whole_) {
      // Further away, a block that is not known yet may lie before what is found.
      stalled_ = barrenBytes_ >= blockBytes_;
      if (stalled_) break;
      scanEnd = std::min<size_t>(scanEnd, position_ + blockBytes_ - barrenBytes_);
    }
    if (position_ < scanEnd) {
      DH_CHECK(scan(scanEnd, afterCopy && whole_));
      continue;
    }
    // No whole window left. Where nothing but zeros will come, the rest before them is literal.
    if (zeroStart_ < zeroEnd_ && (isEnd || zerosFollow_)) {
      position_ = zeroStart_;
      continue;
    }
    break;
  }
  if (isEnd) {
    if (pendingZeros_ == 0) DH_CHECK(matchShortEnd());
    position_ = end_;
  }
  // What was passed over must stay within reach.
  const uint64_t passed = whole_ ? (strideBlocks() - 1) * blockBytes_ : barrenBytes_;
  const size_t held = isEnd ? 0 : std::min<uint64_t>(passed, position_ - literalStart_);
  DH_CHECK(flushLiteral(position_ - held));
  compact();
  return {};
}

Status FileMatch::run(const std::function<bool(uint64_t)>& onProgress) {
  if (!fileBytes_.has_value()) {
    DH_TRY(fileBytes_, file_.size());
    if (*fileBytes_ > kMaxFileBytes) return Error{Code::kLimit, "file larger than 64 TiB"};
  }
  DH_CHECK(matcher_.resume());
  while (offset_ < *fileBytes_ && !matcher_.isStalled()) {
    DH_TRY(const Extent extent, file_.nextExtent(offset_, *fileBytes_));
    if (extent.isHole) {
      if (!matcher_.hasWholeIndex()) break;
      hasher_.updateZeros(extent.length);
      DH_CHECK(matcher_.feedZeros(extent.length));
      offset_ = extent.end();
    }
    while (!extent.isHole && offset_ < extent.end() && !matcher_.isStalled()) {
      const std::span<uint8_t> room = matcher_.room();
      const size_t wanted = std::min<uint64_t>({room.size(), extent.end() - offset_, uint64_t{kReadAtOnceBytes}});
      DH_TRY(const size_t got, file_.readAt(offset_, room.first(wanted)));
      if (got < wanted) return Error{Code::kChanged, "file became shorter while it was read"};
      hasher_.update(room.first(got));
      DH_CHECK(matcher_.advance(got));
      offset_ += got;
      if (onProgress && !onProgress(offset_)) return Error{Code::kCancelled, "match a file"};
    }
    if (onProgress && !onProgress(offset_)) return Error{Code::kCancelled, "match a file"};
  }
  return {};
}

Status matchFile(const File& file, Matcher& matcher, ContentHasher& hasher,
                 const std::function<bool(uint64_t)>& onProgress) {
  return FileMatch(file, matcher, hasher).run(onProgress);
}

}  // namespace deltahop
