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

void setBit(SegmentBits& bits, size_t page) {
  bits[page / 64] |= uint64_t{1} << (page % 64);
}

bool isFull(const SegmentBits& bits) {
  return std::all_of(bits.begin(), bits.end(), [](uint64_t word) { return word == UINT64_MAX; });
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
  std::atomic<uint64_t> next = 0;
  std::atomic<uint64_t> done = 0;
  std::mutex mutex;
  std::optional<Error> failure;
  const std::thread::id asker = std::this_thread::get_id();
  const auto work = [&] {
    PageFile target = target_.again();
    PageFile basis = basis_.again();
    const auto buffers = std::make_unique_for_overwrite<uint8_t[]>(2 * kSegmentBytes);
    for (uint64_t number = next++; number < segments_.size(); number = next++) {
      Status surveyed = surveySegment(number, target, basis, {buffers.get(), 2 * kSegmentBytes});
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
Status PageSurvey::surveySegment(uint64_t number, PageFile& target, PageFile& basis, std::span<uint8_t> buffers) {
  SurveyedSegment& segment = segments_[number];
  const uint64_t offset = number * kSegmentBytes;
  const uint64_t firstPage = offset / kPageBytes;
  const size_t pages = std::min<uint64_t>(kPagesPerSegment, target.pages() - firstPage);
  if (pages == 0) return {};
  const std::span<uint8_t> bytes = buffers.first(pages * kPageBytes);
  DH_TRY(const bool isHole, target.readRange(offset, bytes));
  if (!isHole) readBytes_ += bytes.size();
  const size_t oldPages = firstPage < basis.pages() ? std::min<uint64_t>(pages, basis.pages() - firstPage) : 0;
  const std::span<uint8_t> old = buffers.subspan(kSegmentBytes, oldPages * kPageBytes);
  bool isOldHole = false;
  if (oldPages > 0) {
    DH_TRY(isOldHole, basis.isHole(offset, old.size()));
    if (!isOldHole) {
      DH_CHECK(basis.readRange(offset, old));
      readBytes_ += old.size();
    }
  }
  size_t others = 0;
  const bool allZero = isHole || isZero(bytes);
  for (size_t i = 0; i < pages; ++i) {
    const ByteSpan page = bytes.subspan(i * kPageBytes, kPageBytes);
    const bool isZeroPage = allZero || isZero(page);
    if (isZeroPage) setBit(segment.zero, i);
    const bool isSame =
        i < oldPages &&
        (isOldHole ? isZeroPage : std::memcmp(page.data(), old.data() + i * kPageBytes, kPageBytes) == 0);
    if (isSame) setBit(segment.same, i);
    if (!isSame && !isZeroPage) ++others;
  }
  otherPages_ += others;
  if (pages < kPagesPerSegment) return {};
  segment.isKnown = others == 0;
  if (others > 0 && keptBytes_.fetch_add(others * kPageBytes) <= kMaxKeptBytes) keepOthers(segment, bytes);
  if (segment.isKnown) segment.digest = allZero ? zeroSegmentDigest() : blake3(bytes);
  return {};
}

void PageSurvey::keepOthers(SurveyedSegment& segment, ByteSpan bytes) {
  size_t others = 0;
  for (size_t i = 0; i < kPagesPerSegment; ++i) others += !segment.isSame(i) && !segment.isZero(i);
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
  const uint64_t number = basisPage / kPagesPerSegment;
  return number < segments_.size() && segments_[number].isSame(basisPage % kPagesPerSegment);
}

uint64_t PageSurvey::usedPages() const {
  uint64_t used = 0;
  for (const SurveyedSegment& segment : segments_) {
    for (const uint64_t word : segment.same) used += static_cast<uint64_t>(std::popcount(word));
  }
  return used;
}

}  // namespace deltahop
