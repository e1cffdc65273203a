#include "match/page_survey.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include "base/two_threads.h"
#include "hash/blake3.h"

namespace deltahop {
namespace {

constexpr size_t kSegmentBytes = kContentSegmentBytes;
// Below, two threads cost more than they give.
constexpr uint64_t kMinSharedBytes = 32 << 20;
// Of pages that need not be read again.
constexpr uint64_t kMaxKeptBytes = 16 << 20;
// What lies in a file is moved on by what goes in before it: a dump of memory by the pages that are new.
constexpr size_t kProbes = 3;
// Where nothing is found so often, nothing will be.
constexpr unsigned kMaxVainSearches = 4;

void setBit(SegmentBits& bits, size_t page) {
  bits[page / 64] |= uint64_t{1} << (page % 64);
}

bool isFull(const SegmentBits& bits) {
  return std::all_of(bits.begin(), bits.end(), [](uint64_t word) { return word == UINT64_MAX; });
}

size_t countOf(const SegmentBits& bits) {
  size_t count = 0;
  for (const uint64_t word : bits) count += static_cast<size_t>(std::popcount(word));
  return count;
}

size_t countOfEither(const SegmentBits& left, const SegmentBits& right) {
  size_t count = 0;
  for (size_t i = 0; i < left.size(); ++i) count += static_cast<size_t>(std::popcount(left[i] | right[i]));
  return count;
}

}  // namespace

bool SurveyedSegment::allSame() const {
  return isFull(same);
}

bool SurveyedSegment::allZero() const {
  return isFull(zero);
}

PageSurvey::PageSurvey(const PageFile& target, const PageFile& basis) : target_(target), basis_(basis) {}

Status PageSurvey::run(const std::function<bool(uint64_t)>& onProgress) {
  segments_.resize((target_.bytes() + kSegmentBytes - 1) / kSegmentBytes);
  used_ = std::vector<std::atomic<uint64_t>>((basis_.pages() + 63) / 64);
  std::atomic<uint64_t> next = 0;
  std::atomic<uint64_t> done = 0;
  std::mutex mutex;
  std::optional<Error> failure;
  const std::thread::id asker = std::this_thread::get_id();
  const auto work = [&] {
    const auto buffers = std::make_unique_for_overwrite<uint8_t[]>(2 * kSegmentBytes);
    Hand hand{target_.again(),
              basis_.again(),
              {buffers.get(), kSegmentBytes},
              {buffers.get() + kSegmentBytes, kSegmentBytes}};
    for (uint64_t number = next++; number < segments_.size(); number = next++) {
      Status surveyed = surveySegment(number, hand);
      const uint64_t bytes = ++done * kSegmentBytes;
      if (surveyed.ok() && std::this_thread::get_id() == asker && !onProgress(bytes)) {
        surveyed = Error{Code::kCancelled, "match pages", 0};
      }
      if (surveyed.ok()) continue;
      next = segments_.size();
      const std::lock_guard lock(mutex);
      if (!failure.has_value()) failure.emplace(std::move(surveyed).error());
      return;
    }
  };
  if (target_.bytes() >= kMinSharedBytes) {
    DH_CHECK(onTwoThreads(work));
  } else {
    work();
  }
  if (failure.has_value()) return std::move(*failure);
  return {};
}

// What is read is hashed at once, while it is in the cache.
Status PageSurvey::surveySegment(uint64_t number, Hand& hand) {
  SurveyedSegment& segment = segments_[number];
  const uint64_t offset = number * kSegmentBytes;
  const uint64_t firstPage = offset / kPageBytes;
  const size_t pages = std::min<uint64_t>(kPagesPerSegment, hand.target.pages() - firstPage);
  if (pages == 0) return {};
  const std::span<uint8_t> bytes = hand.bytes.first(pages * kPageBytes);
  DH_TRY(const bool isHole, hand.target.readRange(offset, bytes));
  if (!isHole) readBytes_ += bytes.size();
  const bool allZero = isHole || isZero(bytes);
  for (size_t i = 0; i < pages; ++i) {
    if (allZero || isZero(bytes.subspan(i * kPageBytes, kPageBytes))) setBit(segment.zero, i);
  }
  const auto tryShift = [&](int64_t shift) -> Status {
    DH_TRY(const SegmentBits same, compare(segment, firstPage, bytes, shift, hand));
    if (countOf(same) <= countOf(segment.same)) return {};
    segment.same = same;
    segment.shift = shift;
    return {};
  };
  const auto others = [&] { return pages - countOfEither(segment.same, segment.zero); };
  const auto isMuchOther = [&] { return 2 * others() > pages - countOf(segment.zero); };
  DH_CHECK(tryShift(hand.shift));
  if (isMuchOther() && hand.shift != 0) DH_CHECK(tryShift(0));
  if (isMuchOther() && hand.vainSearches < kMaxVainSearches) {
    DH_TRY(const int64_t shift, searchShift(segment, firstPage, bytes, hand));
    if (shift != 0) DH_CHECK(tryShift(shift));
    hand.vainSearches = isMuchOther() ? hand.vainSearches + 1 : 0;
  }
  if (others() < pages - countOf(segment.zero)) hand.shift = segment.shift;
  markUsed(segment, firstPage);
  otherPages_ += others();
  if (pages < kPagesPerSegment) return {};
  segment.isKnown = others() == 0;
  if (!segment.isKnown && keptBytes_.fetch_add(others() * kPageBytes) <= kMaxKeptBytes) keepOthers(segment, bytes);
  if (segment.isKnown) segment.digest = allZero ? zeroSegmentDigest() : blake3(bytes);
  return {};
}

// Which pages are those of the basis `shift` bytes further on.
Result<SegmentBits> PageSurvey::compare(const SurveyedSegment& segment, uint64_t firstPage, ByteSpan bytes,
                                        int64_t shift, Hand& hand) {
  SegmentBits same{};
  const size_t pages = bytes.size() / kPageBytes;
  const int64_t basisPages = static_cast<int64_t>(hand.basis.pages());
  const int64_t from = static_cast<int64_t>(firstPage) + shift / static_cast<int64_t>(kPageBytes);
  const int64_t begin = std::clamp<int64_t>(from, 0, basisPages);
  const int64_t end = std::clamp<int64_t>(from + static_cast<int64_t>(pages), 0, basisPages);
  if (begin >= end) return same;
  const uint64_t offset = static_cast<uint64_t>(begin) * kPageBytes;
  const std::span<uint8_t> old = hand.old.first(static_cast<size_t>(end - begin) * kPageBytes);
  DH_TRY(const bool isHole, hand.basis.isHole(offset, old.size()));
  if (!isHole) {
    DH_CHECK(hand.basis.readRange(offset, old));
    readBytes_ += old.size();
  }
  const size_t skipped = static_cast<size_t>(begin - from);
  for (size_t i = 0; i < old.size() / kPageBytes; ++i) {
    const size_t page = skipped + i;
    const bool isSame =
        isHole ? segment.isZero(page)
               : std::memcmp(bytes.data() + page * kPageBytes, old.data() + i * kPageBytes, kPageBytes) == 0;
    if (isSame) setBit(same, page);
  }
  return same;
}

// Where some of the pages without a match are in the basis, a segment before or after at the most; 0 if nowhere.
Result<int64_t> PageSurvey::searchShift(const SurveyedSegment& segment, uint64_t firstPage, ByteSpan bytes,
                                        Hand& hand) {
  std::array<size_t, kPagesPerSegment> others;
  size_t count = 0;
  for (size_t i = 0; i < bytes.size() / kPageBytes; ++i) {
    if (!segment.isSame(i) && !segment.isZero(i)) others[count++] = i;
  }
  if (count == 0) return 0;
  for (const uint64_t back : {uint64_t{0}, uint64_t{kPagesPerSegment}, 2 * uint64_t{kPagesPerSegment}}) {
    const uint64_t after = firstPage + kPagesPerSegment;
    if (after < back || after - back >= hand.basis.pages()) continue;
    const uint64_t begin = after - back;
    const std::span<uint8_t> old =
        hand.old.first(std::min<uint64_t>(kPagesPerSegment, hand.basis.pages() - begin) * kPageBytes);
    DH_TRY(const bool isHole, hand.basis.readRange(begin * kPageBytes, old));
    if (isHole) continue;
    readBytes_ += old.size();
    for (size_t probe = 0; probe < kProbes; ++probe) {
      const size_t page = others[count * (2 * probe + 1) / (2 * kProbes)];
      for (size_t i = 0; i < old.size() / kPageBytes; ++i) {
        if (std::memcmp(bytes.data() + page * kPageBytes, old.data() + i * kPageBytes, kPageBytes) != 0) continue;
        return (static_cast<int64_t>(begin + i) - static_cast<int64_t>(firstPage + page)) *
               static_cast<int64_t>(kPageBytes);
      }
    }
  }
  return 0;
}

void PageSurvey::markUsed(const SurveyedSegment& segment, uint64_t firstPage) {
  for (size_t i = 0; i < kPagesPerSegment; ++i) {
    if (!segment.isSame(i)) continue;
    const uint64_t page = firstPage + i + static_cast<uint64_t>(segment.shift / static_cast<int64_t>(kPageBytes));
    used_[page / 64].fetch_or(uint64_t{1} << (page % 64), std::memory_order_relaxed);
  }
}

void PageSurvey::keepOthers(SurveyedSegment& segment, ByteSpan bytes) {
  const size_t others = kPagesPerSegment - countOfEither(segment.same, segment.zero);
  segment.others = std::make_unique_for_overwrite<uint8_t[]>(others * kPageBytes);
  uint8_t* to = segment.others.get();
  for (size_t i = 0; i < kPagesPerSegment; ++i) {
    if (segment.isSame(i) || segment.isZero(i)) continue;
    std::memcpy(to, bytes.data() + i * kPageBytes, kPageBytes);
    to += kPageBytes;
  }
  segment.isKnown = true;
}

bool PageSurvey::isUsed(uint64_t basisPage) const {
  return (used_[basisPage / 64].load(std::memory_order_relaxed) >> (basisPage % 64) & 1) != 0;
}

uint64_t PageSurvey::usedPages() const {
  uint64_t used = 0;
  for (const auto& word : used_) used += static_cast<uint64_t>(std::popcount(word.load(std::memory_order_relaxed)));
  return used;
}

}  // namespace deltahop
