#include "match/page_matcher.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "hash/local_hash.h"

namespace deltahop {
namespace {

constexpr size_t kSegmentBytes = kContentSegmentBytes;
// Anchors are places where eight bytes look a certain way, one in 512, so that content has its own wherever it lies.
constexpr size_t kAnchorBytes = 64;
constexpr uint64_t kAnchorMultiplier = 0x9E3779B97F4A7C15;
constexpr unsigned kAnchorShift = 55;
constexpr uint64_t kAnchorValue = 37;
constexpr size_t kMaxAnchorsPerPage = 32;
constexpr size_t kWordsPerPage = kPageBytes / 8;
// Bounds of the two indexes' entries: 256 MiB and 64 MiB at the most, for targets whose pages moved.
constexpr uint64_t kMaxIndexedPages = uint64_t{1} << 24;
// Above one page in so many, the whole basis is looked at once more.
constexpr uint64_t kMuchIsOneIn = 16;
constexpr uint64_t kMaxIndexedAnchors = uint64_t{1} << 22;
constexpr uint64_t kAnchorsPerPage = kPageBytes >> (64 - kAnchorShift);
constexpr uint64_t kNoPage = UINT64_MAX;
// A page of which so much is the same is taken for the other's later self; the search for a better one ends.
constexpr size_t kGoodWords = 64;

bool isZeroPage(const uint8_t* page) {
  return isZero({page, kPageBytes});
}

size_t differingWords(const uint8_t* left, const uint8_t* right) {
  size_t differing = 0;
  for (size_t at = 0; at < kPageBytes; at += 8) {
    uint64_t a;
    uint64_t b;
    std::memcpy(&a, left + at, 8);
    std::memcpy(&b, right + at, 8);
    differing += a != b;
  }
  return differing;
}

bool isAnchor(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, 8);
  return word * kAnchorMultiplier >> kAnchorShift == kAnchorValue;
}

uint64_t anchorHash(const uint8_t* at) {
  return localHash({at, kAnchorBytes}, kAnchorValue);
}

}  // namespace

PageMatcher::PageMatcher(PageFile target, PageFile basis, PageSink& sink)
    : target_(std::move(target)), basis_(std::move(basis)), sink_(sink), survey_(target_, basis_) {}

Result<Digest> PageMatcher::run(const std::function<bool(uint64_t)>& onProgress) {
  segment_ = std::make_unique_for_overwrite<uint8_t[]>(kSegmentBytes);
  old_ = std::make_unique_for_overwrite<uint8_t[]>(kSegmentBytes);
  // Two passes, of which the second does not read what is the same.
  DH_CHECK(survey_.run([&](uint64_t done) { return onProgress(done / 2); }));
  statistics_.readBytes += survey_.readBytes();
  if (survey_.otherPages() > 0) DH_CHECK(buildIndex());
  const uint64_t segments = survey_.segments();
  for (uint64_t segment = 0; segment < segments; ++segment) {
    DH_CHECK(tell(segment));
    if (!onProgress((segments + segment) * kSegmentBytes / 2)) return Error{Code::kCancelled, "match pages", 0};
  }
  const size_t tail = target_.bytes() % kPageBytes;
  if (tail > 0) {
    const std::span<uint8_t> bytes(segment_.get(), tail);
    DH_CHECK(target_.readRange(target_.pages() * kPageBytes, bytes));
    hasher_.update(bytes);
    statistics_.freshBytes += tail;
    DH_CHECK(sink_.fresh(bytes));
  }
  return hasher_.finish();
}

// Of the basis' pages that the survey has not found; of all of them for content that was copied, if much is new.
Status PageMatcher::buildIndex() {
  const uint64_t unused = basis_.pages() - survey_.usedPages();
  if (unused == 0) return {};
  pages_ = PageIndex(std::min(unused, kMaxIndexedPages));
  anchorsOfAll_ = survey_.otherPages() > basis_.pages() / kMuchIsOneIn;
  const uint64_t anchored = anchorsOfAll_ ? basis_.pages() : unused;
  anchors_ = PageIndex(std::min(anchored * kAnchorsPerPage, kMaxIndexedAnchors));
  uint64_t indexed = 0;
  for (uint64_t first = 0; first < basis_.pages() && indexed < kMaxIndexedPages; first += kPagesPerSegment) {
    DH_TRY(const Extent extent, basis_.extentAt(first * kPageBytes));
    const size_t pages = std::min<uint64_t>(kPagesPerSegment, basis_.pages() - first);
    if (extent.isHole && extent.end() >= (first + pages) * kPageBytes) continue;
    bool allUsed = true;
    for (size_t i = 0; i < pages && allUsed; ++i) allUsed = survey_.isUsed(first + i);
    if (allUsed && !anchorsOfAll_) continue;
    DH_CHECK(indexPages(first, pages));
    indexed += pages;
  }
  return {};
}

Status PageMatcher::indexPages(uint64_t firstPage, size_t pages) {
  DH_CHECK(basis_.readRange(firstPage * kPageBytes, {old_.get(), pages * kPageBytes}));
  statistics_.readBytes += pages * kPageBytes;
  for (size_t i = 0; i < pages; ++i) {
    const uint8_t* page = old_.get() + i * kPageBytes;
    const bool used = survey_.isUsed(firstPage + i);
    if ((used && !anchorsOfAll_) || isZeroPage(page)) continue;
    if (!used) pages_.add(localHash({page, kPageBytes}), static_cast<uint32_t>(firstPage + i));
    // Beyond 4 GiB nothing is found this way.
    const uint64_t offset = (firstPage + i) * kPageBytes;
    const size_t end = std::min(kPageBytes, pages * kPageBytes - i * kPageBytes - kAnchorBytes);
    for (size_t at = 0; at < end && offset < PageIndex::kNone - kPageBytes; ++at) {
      if (isAnchor(page + at)) anchors_.add(anchorHash(page + at), static_cast<uint32_t>(offset + at));
    }
  }
  return {};
}

Status PageMatcher::tell(uint64_t segment) {
  const uint64_t firstPage = segment * kPagesPerSegment;
  const SurveyedSegment& surveyed = survey_.segment(segment);
  if (surveyed.isKnown) {
    hasher_.updateSegment(surveyed.digest);
    if (surveyed.others == nullptr) return tellSettled(firstPage, surveyed);
    takeOthers(surveyed);
    return tellPages(firstPage, kPagesPerSegment, surveyed);
  }
  const size_t pages = std::min<uint64_t>(kPagesPerSegment, target_.pages() - firstPage);
  if (pages == 0) return {};
  const std::span<uint8_t> bytes(segment_.get(), pages * kPageBytes);
  DH_CHECK(target_.readRange(firstPage * kPageBytes, bytes));
  statistics_.readBytes += bytes.size();
  hasher_.update(bytes);
  return tellPages(firstPage, pages, surveyed);
}

Status PageMatcher::tellSettled(uint64_t firstPage, const SurveyedSegment& surveyed) {
  // As a whole, zeros among the rest too: where it stays, the receiver may know it by its digest.
  const bool whole = surveyed.shift == 0 && surveyed.allSame() && !surveyed.allZero();
  uint64_t& found = surveyed.shift == 0 ? statistics_.identityBytes : statistics_.sharedMatchedBytes;
  const auto isSame = [&](size_t page) { return whole || (surveyed.isSame(page) && !surveyed.isZero(page)); };
  for (size_t i = 0; i < kPagesPerSegment;) {
    const bool same = isSame(i);
    size_t end = i + 1;
    while (end < kPagesPerSegment && isSame(end) == same) ++end;
    const uint64_t count = end - i;
    // Zeros as such cost the receiver no reading.
    (same ? found : statistics_.zeroBytes) += count * kPageBytes;
    const uint64_t oldOffset = (firstPage + i) * kPageBytes + static_cast<uint64_t>(surveyed.shift);
    DH_CHECK(same ? sink_.same(oldOffset, count) : sink_.zeros(count));
    if (same) shift_ = surveyed.shift;
    i = end;
  }
  return {};
}

// The pages that the survey has kept, where they would be had the segment been read.
void PageMatcher::takeOthers(const SurveyedSegment& surveyed) {
  const uint8_t* from = surveyed.others.get();
  for (size_t i = 0; i < kPagesPerSegment; ++i) {
    if (surveyed.isSame(i) || surveyed.isZero(i)) continue;
    std::memcpy(segment_.get() + i * kPageBytes, from, kPageBytes);
    from += kPageBytes;
  }
}

Status PageMatcher::tellPages(uint64_t firstPage, size_t pages, const SurveyedSegment& surveyed) {
  // First what is the same, so that what is not knows its neighbours on both sides.
  constexpr uint64_t kZero = kNoPage - 1;
  std::array<uint64_t, kPagesPerSegment> found;
  const int64_t shiftBefore = shift_;
  for (size_t i = 0; i < pages; ++i) {
    const uint8_t* page = segment_.get() + i * kPageBytes;
    // Unless it was kept, a page may have been written since it was surveyed.
    if (surveyed.isKnown ? surveyed.isZero(i) : isZeroPage(page)) {
      found[i] = kZero;
      continue;
    }
    const uint64_t surveyedAt = (firstPage + i) * kPageBytes + static_cast<uint64_t>(surveyed.shift);
    if (surveyed.isKnown && surveyed.isSame(i)) {
      found[i] = surveyedAt;
    } else {
      DH_TRY(found[i], findSame(firstPage + i, page, surveyed.isSame(i) ? surveyedAt : kNoPage));
    }
    if (found[i] != kNoPage) shift_ = static_cast<int64_t>(found[i] - (firstPage + i) * kPageBytes);
  }
  shift_ = shiftBefore;
  size_t next = 0;
  for (size_t i = 0; i < pages; ++i) {
    const uint8_t* page = segment_.get() + i * kPageBytes;
    if (found[i] == kZero) {
      statistics_.zeroBytes += kPageBytes;
      DH_CHECK(sink_.zeros(1));
    } else if (found[i] != kNoPage) {
      shift_ = static_cast<int64_t>(found[i] - (firstPage + i) * kPageBytes);
      (shift_ == 0 ? statistics_.identityBytes : statistics_.sharedMatchedBytes) += kPageBytes;
      DH_CHECK(sink_.same(found[i], 1));
    } else {
      next = std::max(next, i + 1);
      while (next < pages && found[next] >= kZero) ++next;
      const int64_t nextShift =
          next < pages ? static_cast<int64_t>(found[next] - (firstPage + next) * kPageBytes) : shift_;
      DH_CHECK(tellChanged(firstPage + i, page, nextShift));
    }
  }
  return {};
}

// Where this page is in the basis: where it was seen, after the one before, or anywhere.
Result<uint64_t> PageMatcher::findSame(uint64_t page, const uint8_t* bytes, uint64_t seenAt) {
  const auto isSame = [&](uint64_t old) -> Result<bool> {
    if (old > (basis_.pages() - 1) * kPageBytes || basis_.pages() == 0) return false;
    DH_TRY(const uint8_t* oldBytes, basis_.pageAt(old, scratch_));
    return std::memcmp(bytes, oldBytes, kPageBytes) == 0;
  };
  if (seenAt != kNoPage) {
    DH_TRY(const bool still, isSame(seenAt));
    if (still) return seenAt;
  }
  const uint64_t onShift = page * kPageBytes + static_cast<uint64_t>(shift_);
  if (shift_ != 0) {
    DH_TRY(const bool same, isSame(onShift));
    if (same) return onShift;
  }
  const uint32_t indexed = pages_.find(localHash({bytes, kPageBytes}));
  if (indexed == PageIndex::kNone) return kNoPage;
  DH_TRY(const bool same, isSame(indexed * kPageBytes));
  return same ? indexed * kPageBytes : kNoPage;
}

// From which old offsets most of this page's anchors come, seen from the page's start.
std::array<PageMatcher::Vote, 2> PageMatcher::voteOfAnchors(const uint8_t* bytes) const {
  std::array<Vote, kMaxAnchorsPerPage> votes;
  size_t candidates = 0;
  for (size_t at = 0; at + kAnchorBytes <= kPageBytes && candidates < kMaxAnchorsPerPage; ++at) {
    if (!isAnchor(bytes + at)) continue;
    const uint32_t old = anchors_.find(anchorHash(bytes + at));
    if (old == PageIndex::kNone || old < at) continue;
    const uint64_t offset = old - at;
    size_t place = 0;
    while (place < candidates && votes[place].offset != offset) ++place;
    if (place == candidates) votes[candidates++] = {offset, 0};
    ++votes[place].count;
  }
  std::array<Vote, 2> best;
  for (size_t i = 0; i < candidates; ++i) {
    if (votes[i].count > best[0].count) {
      best[1] = best[0];
      best[0] = votes[i];
    } else if (votes[i].count > best[1].count) {
      best[1] = votes[i];
    }
  }
  return best;
}

Status PageMatcher::tellChanged(uint64_t page, const uint8_t* bytes, int64_t nextShift) {
  const uint64_t offset = page * kPageBytes;
  const uint64_t lastOffset = basis_.pages() == 0 ? 0 : (basis_.pages() - 1) * kPageBytes;
  uint64_t best = kNoPage;
  size_t bestWords = kWordsPerPage + 1;
  const auto consider = [&](uint64_t old) -> Status {
    if (old > lastOffset || basis_.pages() == 0 || old == best) return {};
    DH_TRY(const uint8_t* oldBytes, basis_.pageAt(old, scratch_));
    const size_t words = differingWords(bytes, oldBytes);
    if (words < bestWords) {
      best = old;
      bestWords = words;
    }
    return {};
  };
  const uint64_t onShift = offset + static_cast<uint64_t>(shift_);
  const uint64_t onNextShift = offset + static_cast<uint64_t>(nextShift);
  DH_CHECK(consider(onShift));
  if (bestWords > kGoodWords) DH_CHECK(consider(onNextShift));
  if (bestWords > kGoodWords) DH_CHECK(consider(offset));
  std::array<Vote, 2> votes;
  if (bestWords > kGoodWords) {
    votes = voteOfAnchors(bytes);
    for (const Vote& vote : votes) DH_CHECK(consider(vote.offset));
  }
  if (best == kNoPage) {
    statistics_.freshBytes += kPageBytes;
    return sink_.fresh({bytes, kPageBytes});
  }
  if (bestWords <= kWordsPerPage / 2) {
    shift_ = static_cast<int64_t>(best - offset);
  } else if (onShift <= lastOffset) {
    // Inside the page things have moved on, so that no count of words tells one candidate from another.
    best = onShift;
  }
  if (bestWords == 0) {
    statistics_.sharedMatchedBytes += kPageBytes;
    return sink_.same(best, 1);
  }
  statistics_.residualBytes += kPageBytes;
  if (bestWords > kGoodWords) {
    // Put together of several pieces, as memory is that was allocated anew, or one of these.
    std::array<uint64_t, 3> others = {votes[0].offset, votes[1].offset, onNextShift};
    for (size_t i = 0; i < others.size(); ++i) {
      const bool again = std::find(others.begin(), others.begin() + static_cast<ptrdiff_t>(i), others[i]) !=
                         others.begin() + static_cast<ptrdiff_t>(i);
      if (others[i] > lastOffset || others[i] == best || again) continue;
      DH_TRY(const uint8_t* beside, basis_.pageAt(others[i], scratch_));
      DH_CHECK(sink_.beside(others[i], beside));
    }
  }
  DH_TRY(const uint8_t* old, basis_.pageAt(best, scratch_));
  return sink_.changed(bytes, best, old);
}

}  // namespace deltahop
