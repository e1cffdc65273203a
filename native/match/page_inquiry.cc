#include "match/page_inquiry.h"

#include <algorithm>
#include <array>
#include <bit>
#include <unordered_set>
#include <utility>

#include "hash/blake3.h"

namespace deltahop {
namespace {

constexpr uint32_t kNone = UINT32_MAX;
// No basis has so many pages.
constexpr uint32_t kVoted = uint32_t{1} << 31;
constexpr uint32_t kInPieces = kNone - 1;
constexpr unsigned kPageShift = 12;
constexpr unsigned kEighthShift = 9;
constexpr unsigned kPartShift = 6;
constexpr size_t kEighthBytes = 1 << kEighthShift;
constexpr size_t kPartBytes = 1 << kPartShift;
constexpr size_t kPagesPerSum = kSumSegmentBytes / kPageBytes;
constexpr size_t kPagesPerSegment = kContentSegmentBytes / kPageBytes;
constexpr size_t kSumsPerSegment = kContentSegmentBytes / kSumSegmentBytes;
// Where only one place is compared, a wrong guess is rare; but it costs another look at the whole file. Two bytes are
// enough for what has few parts to compare: a quarter of a wrong guess at the most.
constexpr unsigned kFewPartsSumBytes = 2;
constexpr unsigned kPartsSumBytes = 3;
constexpr uint64_t kFewPartsBytes = 1 << 20;
// Of a basis of which more pages may have moved, one of each segment is asked about first, and an eighth of it. In so
// many, one must be found: a page that need not be sent saves some 1,500 bytes, and one that is asked for costs six.
constexpr uint64_t kMaxUnsampledPages = 1 << 15;
constexpr uint64_t kLeastFoundOneIn = 200;
// The eighth by which pages that moved and changed are known again.
constexpr unsigned kVotingEighth = 5;
// Farther from what was found, its shift says little; and so many pages must lie there.
constexpr uint64_t kFarPages = 16;
constexpr uint64_t kMinLostPages = 128;
// Where so many pages are lost, one found among several does not count; had they changed here and there, most would be.
constexpr uint64_t kLostRun = 12;
constexpr uint64_t kFoundForLost = 4;
constexpr uint64_t kFreePagesForLost = 16;
// Of more free pages than that, so many are asked about first and looked for in some of the target; so many of a
// hundred must be found.
constexpr uint64_t kMaxUnsampledVotes = 1 << 15;
constexpr uint64_t kSampledVotes = 1024;
constexpr uint64_t kVotingPagesOneIn = 8;
constexpr uint64_t kLeastVoted = 3;
// What is copied about in memory lies at any offset, and few hundred bytes together.
constexpr unsigned kRollingShift = 8;
constexpr uint64_t kMaxRollingBlocks = 1 << 20;
constexpr uint64_t kMinSearchedPages = 128;
constexpr uint64_t kMaxSearchedPages = 1 << 16;
// First so many pages of the basis are looked for in some of the target.
constexpr uint64_t kMaxSampledPages = 4096;
constexpr uint64_t kSamplePages = 128;
// What must be found, in hundredths: at least, and for as many pages of the basis as of the target.
constexpr uint64_t kLeastFound = 5;
constexpr uint64_t kFoundForFree = 9;
constexpr size_t kLeastInPieces = kPageBytes / 4;
// Bits of a page's sum above those that tell all pages apart.
constexpr unsigned kSpareBits = 8;
// Small windows first, so that what is not worth asking shows soon; then enough for a long way and a fast link.
constexpr uint64_t kMaxWindowSegments = 16;
constexpr size_t kMaxWindows = 8;
// Settled segments of one window.
constexpr uint64_t kMaxWindowSpan = 1024;
// What must be found in a hundred looks, so that the sums cost less than what need not be sent, compressed as it would
// be.
constexpr uint64_t kEighthsForPair = 150;
constexpr uint64_t kPartsForEighth = 300;
constexpr uint64_t kSampleLooks = 512;
constexpr uint64_t kOneInSkipped = 32;

uint64_t mixed(uint64_t sum) {
  return sum * 0x9E3779B97F4A7C15;
}

// Sums as they came, to be looked up by whole hashes; without that of zeros.
class SumSet {
 public:
  SumSet(ByteSpan sums, unsigned sumBytes, uint64_t zeroSum) : sumBytes_(sumBytes) {
    for (size_t at = 0; at < sums.size(); at += sumBytes) {
      const uint64_t sum = sumAt(sums.data() + at, sumBytes);
      if (sum != firstBytes(zeroSum, sumBytes)) sums_.insert(sum);
    }
  }
  bool has(uint64_t hash) const { return sums_.contains(firstBytes(hash, sumBytes_)); }

 private:
  unsigned sumBytes_;
  std::unordered_set<uint64_t> sums_;
};

}  // namespace

bool PageInquiry::Odds::isWorth(uint64_t inHundred, bool byDefault) {
  if (looks < kSampleLooks) return byDefault || asks < kSampleLooks;
  return found * 100 >= looks * inHundred || ++skipped % kOneInSkipped == 0;
}

// A sample is out, and not answered yet.
bool PageInquiry::Odds::isUndecided() const {
  return looks < kSampleLooks && asks >= kSampleLooks;
}

PageInquiry::PageInquiry(PageFile target, uint64_t basisBytes, Ways ways, const Key& key, Buffers& buffers)
    : target_(std::move(target)), basisBytes_(basisBytes), ways_(ways), key_(key), buffers_(buffers) {
  const Bytes zeros(kPageBytes);
  blake3KeyedBlocks(key_, zeros.data(), zeros.size(), 1, &zeroPageSum_);
  const uint64_t oldSegments = (basisBytes + kSumSegmentBytes - 1) / kSumSegmentBytes;
  awaited_.push_back({Awaited::Kind::kSegments, oldSegments * kMaxSumBytes, 0});
}

Status PageInquiry::takeSums(ByteSpan sums, const Progress& onProgress) {
  while (!sums.empty()) {
    if (awaited_.empty()) return Error{Code::kProtocol, "sums that nobody asked for", 0};
    const size_t taken = std::min<uint64_t>(sums.size(), awaited_.front().bytes - sums_.size());
    sums_.insert(sums_.end(), sums.begin(), sums.begin() + static_cast<ptrdiff_t>(taken));
    sums = sums.subspan(taken);
    if (sums_.size() < awaited_.front().bytes) return {};
    const Awaited awaited = awaited_.front();
    awaited_.pop_front();
    DH_CHECK(answered(awaited, onProgress));
    sums_.clear();
  }
  return {};
}

std::optional<SumQuery> PageInquiry::takeQuery() {
  if (queries_.empty()) return std::nullopt;
  SumQuery query = std::move(queries_.front());
  queries_.pop_front();
  return query;
}

void PageInquiry::ask(SumQuery query, Awaited::Kind kind, uint64_t window) {
  awaited_.push_back({kind, query.answerBytes(), window});
  queries_.push_back(std::move(query));
}

Status PageInquiry::answered(const Awaited& awaited, const Progress& onProgress) {
  switch (awaited.kind) {
    case Awaited::Kind::kSegments:
      for (size_t at = 0; at < sums_.size(); at += kMaxSumBytes) {
        oldSegments_.push_back(sumAt(sums_.data() + at, kMaxSumBytes));
      }
      DH_CHECK(survey(onProgress));
      if (!ways_.here) partSumBytes_ = openBytes_ <= kFewPartsBytes ? kFewPartsSumBytes : kPartsSumBytes;
      if (askForPageSample() || askForPages()) return {};
      findPages();
      openWindows();
      return {};
    case Awaited::Kind::kPageSample:
      return judgePageSample();
    case Awaited::Kind::kPartSample:
      // Parts are looked for only where the pages have not decided it: each page of the target is read for them.
      if (!isSampleWorth()) DH_CHECK(judgePartSample());
      if (isSampleWorth() && askForPages()) return {};
      findPages();
      openWindows();
      return {};
    case Awaited::Kind::kPages:
      pageSums_ = std::exchange(sums_, {});
      indexPages();
      findPages();
      if (!askForVotes()) openWindows();
      return {};
    case Awaited::Kind::kVoteSample: {
      DH_TRY(const uint64_t votes, takeVotes(kVotingPagesOneIn));
      const bool isWorth = votes * kVotingPagesOneIn * votingOneIn_ * 100 >= kLeastVoted * farPages_;
      if (!isWorth || !askForEighths(1, Awaited::Kind::kVotes)) openWindows();
      return {};
    }
    case Awaited::Kind::kVotes:
      DH_CHECK(takeVotes(1));
      if (!askForSample()) openWindows();
      return {};
    case Awaited::Kind::kSample: {
      DH_TRY(const bool isWorth, judgeSample());
      if (!isWorth || !askForRolling(1, Awaited::Kind::kRolling)) openWindows();
      return {};
    }
    case Awaited::Kind::kRolling:
      DH_CHECK(takeRolling());
      openWindows();
      return {};
    case Awaited::Kind::kWindow: {
      Window& window = windows_[awaited.window - firstWindow_];
      if (window.stage == Window::Stage::kParts) return judgeParts(window);
      DH_CHECK(judgeEighths(window, awaited.window));
      openWindows();
      return {};
    }
  }
  return {};
}

Result<std::span<uint8_t>> PageInquiry::readSegment(uint64_t segment) {
  buffers_.segment.resize(kContentSegmentBytes);
  const uint64_t offset = segment * kContentSegmentBytes;
  const std::span<uint8_t> bytes(buffers_.segment.data(),
                                 std::min<uint64_t>(kContentSegmentBytes, target_.bytes() - offset));
  DH_TRY(const bool isHole, target_.readRange(offset, bytes));
  if (!isHole) statistics_.readBytes += bytes.size();
  return bytes;
}

// What is where it was, or zeros, needs no second look: it is hashed here.
Status PageInquiry::survey(const Progress& onProgress) {
  const uint64_t sums = (target_.bytes() + kSumSegmentBytes - 1) / kSumSegmentBytes;
  equal_.resize(sums);
  zero_.resize(sums);
  settled_.resize(segments());
  digests_.resize(segments());
  for (uint64_t segment = 0; segment < segments(); ++segment) {
    DH_CHECK(surveySegment(segment));
    if (!onProgress(segment * kContentSegmentBytes / 2)) return Error{Code::kCancelled, "compare sums", 0};
  }
  return {};
}

Status PageInquiry::surveySegment(uint64_t segment) {
  const uint64_t offset = segment * kContentSegmentBytes;
  const uint64_t first = segment * kSumsPerSegment;
  DH_TRY(const Extent extent, target_.extentAt(offset));
  if (extent.isHole && extent.end() >= offset + kContentSegmentBytes) {
    for (size_t i = 0; i < kSumsPerSegment; ++i) zero_[first + i] = true;
    settled_[segment] = true;
    digests_[segment] = zeroSegmentDigest();
    return {};
  }
  DH_TRY(const ByteSpan bytes, readSegment(segment));
  bool settled = bytes.size() == kContentSegmentBytes;
  for (size_t at = 0; at < bytes.size(); at += kSumSegmentBytes) {
    const uint64_t number = (offset + at) / kSumSegmentBytes;
    const ByteSpan part = bytes.subspan(at, std::min<size_t>(kSumSegmentBytes, bytes.size() - at));
    const uint64_t begin = offset + at;
    zero_[number] = isZero(part);
    if (!zero_[number] && begin < basisBytes_ &&
        std::min<uint64_t>(kSumSegmentBytes, basisBytes_ - begin) == part.size()) {
      uint64_t sum = 0;
      blake3KeyedBlocks(key_, part.data(), part.size(), 1, &sum);
      equal_[number] = sum == oldSegments_[number];
    }
    if (!equal_[number] && !zero_[number]) {
      settled = false;
      openBytes_ += part.size();
    }
  }
  settled_[segment] = settled;
  if (settled) {
    digests_[segment] = blake3(bytes);
    return {};
  }
  const size_t pages = bytes.size() / kPageBytes;
  const size_t before = sumsOfPages_.size();
  sumsOfPages_.resize(before + pages);
  blake3KeyedBlocks(key_, bytes.data(), kPageBytes, pages, sumsOfPages_.data() + before);
  const ByteSpan rest = bytes.subspan(pages * kPageBytes);
  if (!rest.empty() && equal_[(offset + bytes.size() - 1) / kSumSegmentBytes]) {
    blake3KeyedBlocks(key_, rest.data(), rest.size(), 1, &restSum_.emplace());
  }
  return {};
}

// Of the basis, of which the pages may have gone elsewhere; none if the target has none that could come from there.
std::vector<uint32_t> PageInquiry::movedSegments() const {
  std::vector<uint32_t> moved;
  if (openBytes_ < kPageBytes) return moved;
  uint64_t zeroSum = 0;
  const Bytes zeros(kSumSegmentBytes);
  blake3KeyedBlocks(key_, zeros.data(), zeros.size(), 1, &zeroSum);
  for (uint64_t segment = 0; segment < oldSegments_.size(); ++segment) {
    if (oldSegments_[segment] == zeroSum || (segment < equal_.size() && equal_[segment])) continue;
    if (segment * kPagesPerSum < oldPages()) moved.push_back(static_cast<uint32_t>(segment));
  }
  return moved;
}

// Whether much of a large basis can be found: where nothing can, its pages' sums would be a good part of what comes
// back.
bool PageInquiry::askForPageSample() {
  if (ways_.exact || ways_.here) return false;
  const std::vector<uint32_t> moved = movedSegments();
  if (moved.size() * kPagesPerSum <= kMaxUnsampledPages) return false;
  const auto bits = static_cast<unsigned>(std::bit_width(moved.size()) + std::bit_width(openBytes_ / kPageBytes));
  sampleSumBytes_ = std::clamp<unsigned>((bits + kSpareBits + 7) / 8, kMinSumBytes, kMaxSumBytes);
  SumQuery pages{kPageShift, sampleSumBytes_, {}};
  SumQuery parts{kEighthShift, sampleSumBytes_, {}};
  for (const uint32_t segment : moved) {
    const uint64_t page = std::min(segment * kPagesPerSum + kPagesPerSum / 2, oldPages() - 1);
    pages.add(page);
    parts.add(page * 8 + kVotingEighth);
  }
  sampledPages_ = moved.size();
  ask(std::move(pages), Awaited::Kind::kPageSample, 0);
  ask(std::move(parts), Awaited::Kind::kPartSample, 0);
  return true;
}

bool PageInquiry::isSampleWorth() const {
  return foundInSample_ * kLeastFoundOneIn >= sampledPages_;
}

Status PageInquiry::judgePageSample() {
  const SumSet sample(sums_, sampleSumBytes_, zeroPageSum_);
  return forEachOpenPage([&](uint64_t number, uint64_t place) -> Status {
    if (!equal_[number / kPagesPerSum] && sample.has(sumsOfPages_[place])) ++foundInSample_;
    return {};
  });
}

Status PageInquiry::judgePartSample() {
  std::array<uint8_t, kEighthBytes> eighth{};
  uint64_t sum = 0;
  blake3KeyedBlocks(key_, eighth.data(), kEighthBytes, 1, &sum);
  const SumSet sample(sums_, sampleSumBytes_, sum);
  return forEachOpenPage([&](uint64_t number, uint64_t place) -> Status {
    if (equal_[number / kPagesPerSum] || sumsOfPages_[place] == zeroPageSum_) return {};
    DH_TRY(const bool isHole, target_.readRange(number * kPageBytes + kVotingEighth * kEighthBytes, eighth));
    if (!isHole) statistics_.readBytes += kEighthBytes;
    blake3KeyedBlocks(key_, eighth.data(), kEighthBytes, 1, &sum);
    if (sample.has(sum)) ++foundInSample_;
    return {};
  });
}

// For the pages of the basis that may have gone elsewhere; false if there is nothing that could be found there.
bool PageInquiry::askForPages() {
  SumQuery query{kPageShift, 0, {}};
  sumsOfSegment_.assign(oldSegments_.size(), kNone);
  for (const uint32_t segment : movedSegments()) {
    const uint64_t firstPage = segment * kPagesPerSum;
    sumsOfSegment_[segment] = static_cast<uint32_t>(summedSegments_.size());
    summedSegments_.push_back(segment);
    query.add(firstPage, std::min<uint64_t>(kPagesPerSum, oldPages() - firstPage));
  }
  if (query.runs.empty()) return false;
  const auto bits =
      static_cast<unsigned>(std::bit_width(query.blocks()) + std::bit_width(openBytes_ / kPageBytes)) + kSpareBits;
  pageSumBytes_ =
      ways_.exact || ways_.here ? kMaxSumBytes : std::clamp<unsigned>((bits + 7) / 8, kMinSumBytes, kMaxSumBytes);
  query.sumBytes = pageSumBytes_;
  ask(std::move(query), Awaited::Kind::kPages, 0);
  return true;
}

void PageInquiry::indexPages() {
  const uint64_t pages = pageSums_.size() / pageSumBytes_;
  index_ = PageIndex(pages);
  repeated_.resize(oldPages());
  for (uint64_t i = 0; i < pages; ++i) {
    const uint64_t sum = sumAt(pageSums_.data() + i * pageSumBytes_, pageSumBytes_);
    if (sum == firstBytes(zeroPageSum_, pageSumBytes_)) continue;
    const auto page = static_cast<uint32_t>(summedSegments_[i / kPagesPerSum] * kPagesPerSum + i % kPagesPerSum);
    const uint32_t first = index_.find(mixed(sum));
    if (first == PageIndex::kNone) {
      index_.add(mixed(sum), page);
    } else {
      repeated_[first] = repeated_[page] = true;
    }
  }
}

// Calls visit(number of the page, its place in sumsOfPages_).
template <typename Visit>
Status PageInquiry::forEachOpenPage(Visit visit) const {
  uint64_t place = 0;
  for (uint64_t segment = 0; segment < segments(); ++segment) {
    if (settled_[segment]) continue;
    const uint64_t first = segment * kPagesPerSegment;
    const uint64_t pages = std::min<uint64_t>(kPagesPerSegment, target_.bytes() / kPageBytes - first);
    for (uint64_t i = 0; i < pages; ++i) DH_CHECK(visit(first + i, place++));
  }
  return {};
}

void PageInquiry::findPages() {
  used_.resize(oldPages());
  found_.assign(sumsOfPages_.size(), kNone);
  uint64_t next = 0;
  uint64_t shift = 0;
  (void)forEachOpenPage([&](uint64_t number, uint64_t place) -> Status {
    if (number != next) shift = 0;
    next = number + 1;
    const bool isEqual = equal_[number / kPagesPerSum];
    if (!isEqual && sumsOfPages_[place] == zeroPageSum_) return {};
    const uint64_t old = isEqual ? number : findPage(number, sumsOfPages_[place], shift);
    if (old == kNone) return {};
    found_[place] = static_cast<uint32_t>(old);
    used_[old] = true;
    if (isTelling(old)) shift = old - number;
    return {};
  });
}

// Where it was, after the one before, or anywhere.
uint64_t PageInquiry::findPage(uint64_t number, uint64_t sum, uint64_t shift) const {
  if (isOldPage(number, sum)) return number;
  if (isOldPage(number + shift, sum)) return number + shift;
  const uint64_t old = index_.find(mixed(firstBytes(sum, pageSumBytes_)));
  return isOldPage(old, sum) ? old : kNone;
}

// Whether its place says where its neighbours come from: one of many alike may be any of them.
bool PageInquiry::isTelling(uint64_t old) const {
  return repeated_.empty() || !repeated_[old];
}

// Calls visit(number of the page, its place) for each that the votes have not found, nor most of those before it.
template <typename Visit>
Status PageInquiry::forEachLostPage(Visit visit) const {
  uint64_t lost = 0;
  return forEachOpenPage([&](uint64_t number, uint64_t place) -> Status {
    const uint32_t found = found_[place];
    if (found == kNone && sumsOfPages_[place] == zeroPageSum_) return {};
    if (found != kNone) {
      if ((found & kVoted) != 0) lost -= std::min(lost, kFoundForLost);
      return {};
    }
    lost = std::min(lost + 1, 2 * kLostRun);
    return lost > kLostRun ? visit(number, place) : Status();
  });
}

// One in so many of the pages of the basis that nothing was found to be.
std::vector<uint32_t> PageInquiry::freePages(uint64_t oneIn) const {
  std::vector<uint32_t> pages;
  uint64_t count = 0;
  for (uint64_t old = 0; old < oldPages(); ++old) {
    if (isFree(static_cast<int64_t>(old)) && count++ % oneIn == 0) pages.push_back(static_cast<uint32_t>(old));
  }
  return pages;
}

// Where nothing near the pages that have changed says from where they have moved, they are looked for by one eighth of
// the pages of the basis that nothing was found to be.
bool PageInquiry::askForVotes() {
  if (ways_.exact || summedSegments_.empty()) return false;
  uint64_t far = 0;
  uint64_t next = 0;
  (void)forEachOpenPage([&](uint64_t number, uint64_t place) -> Status {
    const uint32_t found = found_[place];
    far = number != next || (found != kNone && isTelling(found)) ? 0 : far + 1;
    next = number + 1;
    if (far > kFarPages && found == kNone && sumsOfPages_[place] != zeroPageSum_) ++farPages_;
    return {};
  });
  if (farPages_ < kMinLostPages) return false;
  const uint64_t free = freePages(1).size();
  if (!ways_.here && farPages_ < free / kFreePagesForLost) return false;
  if (ways_.here || free <= kMaxUnsampledVotes) return askForEighths(1, Awaited::Kind::kVotes);
  return askForEighths(free / kSampledVotes, Awaited::Kind::kVoteSample);
}

bool PageInquiry::askForEighths(uint64_t oneIn, Awaited::Kind kind) {
  SumQuery query{kEighthShift, 0, {}};
  for (const uint32_t old : freePages(oneIn)) query.add(uint64_t{old} * 8 + kVotingEighth);
  if (query.runs.empty()) return false;
  votingOneIn_ = oneIn;
  const auto bits = static_cast<unsigned>(std::bit_width(query.blocks()) + std::bit_width(found_.size()));
  voteSumBytes_ = ways_.here ? kMaxSumBytes : std::clamp<unsigned>((bits + 7) / 8, kMinSumBytes, kMaxSumBytes);
  query.sumBytes = voteSumBytes_;
  ask(std::move(query), kind, 0);
  return true;
}

// Looks for one in so many of the pages that were not found, and says how many votes there are for them. If it is all
// of them, these are kept.
Result<uint64_t> PageInquiry::takeVotes(uint64_t onePageIn) {
  const std::vector<uint32_t> asked = freePages(votingOneIn_);
  const auto sumOf = [&](size_t i) { return sumAt(sums_.data() + i * voteSumBytes_, voteSumBytes_); };
  std::array<uint8_t, kEighthBytes> eighth{};
  uint64_t zeroSum = 0;
  blake3KeyedBlocks(key_, eighth.data(), kEighthBytes, 1, &zeroSum);
  PageIndex index(asked.size());
  for (size_t i = 0; i < asked.size(); ++i) {
    if (sumOf(i) != firstBytes(zeroSum, voteSumBytes_)) index.add(mixed(sumOf(i)), static_cast<uint32_t>(i));
  }
  uint64_t votes = 0;
  uint64_t unfound = 0;
  uint64_t next = 0;
  uint64_t shift = 0;
  DH_CHECK(forEachOpenPage([&](uint64_t number, uint64_t place) -> Status {
    if (number != next) shift = 0;
    next = number + 1;
    uint32_t& found = found_[place];
    if (found != kNone && isTelling(found)) shift = found - number;
    if (found != kNone || sumsOfPages_[place] == zeroPageSum_ || unfound++ % onePageIn != 0) return {};
    DH_TRY(const bool isHole, target_.readRange(number * kPageBytes + kVotingEighth * kEighthBytes, eighth));
    if (!isHole) statistics_.readBytes += kEighthBytes;
    uint64_t sum = 0;
    blake3KeyedBlocks(key_, eighth.data(), kEighthBytes, 1, &sum);
    sum = firstBytes(sum, voteSumBytes_);
    // After the one before if that is as good.
    const auto near = std::lower_bound(asked.begin(), asked.end(), number + shift);
    auto at = static_cast<uint32_t>(near - asked.begin());
    if (near == asked.end() || *near != number + shift || sumOf(at) != sum) at = index.find(mixed(sum));
    if (at == PageIndex::kNone || sumOf(at) != sum) return {};
    ++votes;
    if (onePageIn > 1) return {};
    shift = asked[at] - number;
    found = asked[at] | kVoted;
    return {};
  }));
  return votes;
}

// What is still lost may consist of pieces from anywhere, as memory does into which something was copied: they are
// looked for at all offsets. First by a sample, as that costs much where there is nothing.
bool PageInquiry::askForSample() {
  if (ways_.exact || !ways_.rolling || summedSegments_.empty()) return false;
  uint64_t lost = 0;
  (void)forEachLostPage([&](uint64_t, uint64_t) -> Status {
    ++lost;
    return {};
  });
  if (lost < kMinSearchedPages) return false;
  return askForRolling(freePages(1).size() / kSamplePages + 1, Awaited::Kind::kSample);
}

bool PageInquiry::askForRolling(uint64_t oneIn, Awaited::Kind kind) {
  const std::vector<uint32_t> pages = freePages(oneIn);
  if (pages.empty()) return false;
  rollingOneIn_ = oneIn;
  rollingShift_ = kRollingShift;
  while (pages.size() << (kPageShift - rollingShift_) > kMaxRollingBlocks) ++rollingShift_;
  if (rollingShift_ >= kPageShift) return false;
  SumQuery query{rollingShift_, 0, {}, true};
  const uint64_t blocks = uint64_t{1} << (kPageShift - rollingShift_);
  for (const uint32_t old : pages) query.add(old * blocks, blocks);
  const auto bits = static_cast<unsigned>(std::bit_width(query.blocks()) +
                                          std::bit_width(std::min(openBytes_, kMaxSearchedPages * kPageBytes))) +
                    4;
  rollingSumBytes_ = ways_.here ? kMaxSumBytes : std::clamp<unsigned>((bits + 7) / 8, kWeakSumBytes + 1, kMaxSumBytes);
  query.sumBytes = rollingSumBytes_;
  ask(std::move(query), kind, 0);
  return true;
}

// Puts what is found into pieces, page by page.
class PageInquiry::PieceSink : public DeltaSink {
 public:
  PieceSink(const std::vector<uint32_t>& places, std::vector<Piece>& pieces) : places_(places), pieces_(pieces) {}
  Status copy(uint64_t offset, uint64_t length) override {
    while (length > 0) {
      const uint64_t begin = offset_ % kPageBytes;
      const uint64_t bytes = std::min(length, kPageBytes - begin);
      pieces_.push_back(
          {places_[offset_ / kPageBytes], static_cast<uint16_t>(begin), static_cast<uint16_t>(bytes), offset});
      offset_ += bytes;
      offset += bytes;
      length -= bytes;
    }
    return {};
  }
  Status literal(ByteSpan data) override {
    offset_ += data.size();
    return {};
  }
  Status zeros(uint64_t length) override {
    offset_ += length;
    return {};
  }

 private:
  const std::vector<uint32_t>& places_;
  std::vector<Piece>& pieces_;
  uint64_t offset_ = 0;  // in the pages that are looked at, one after the other
};

// In lost pages, no more than so many, spread in runs over all.
Status PageInquiry::search(uint64_t mostPages) {
  Signature signature;
  signature.key = key_;
  signature.blockBytes = uint32_t{1} << rollingShift_;
  signature.strongBytes = rollingSumBytes_ - kWeakSumBytes;
  signature.files = {{0, basisBytes_}};
  const uint64_t blocks = uint64_t{1} << (kPageShift - rollingShift_);
  const uint8_t* sum = sums_.data();
  for (const uint32_t old : freePages(rollingOneIn_)) {
    for (uint64_t i = 0; i < blocks; ++i, sum += rollingSumBytes_) {
      signature.blocks.push_back(static_cast<uint32_t>(old * blocks + i));
      signature.weak.push_back(static_cast<uint32_t>(sumAt(sum, kWeakSumBytes)));
      signature.strong.push_back(sumAt(sum + kWeakSumBytes, signature.strongBytes));
    }
  }
  std::vector<uint32_t> numbers;
  std::vector<uint32_t> places;
  (void)forEachLostPage([&](uint64_t number, uint64_t place) -> Status {
    numbers.push_back(static_cast<uint32_t>(number));
    places.push_back(static_cast<uint32_t>(place));
    return {};
  });
  if (numbers.size() > mostPages) {
    const size_t oneRunIn = (numbers.size() + mostPages - 1) / mostPages;
    size_t kept = 0;
    for (size_t i = 0; i < numbers.size(); ++i) {
      if (i / kFarPages % oneRunIn != 0) continue;
      numbers[kept] = numbers[i];
      places[kept++] = places[i];
    }
    numbers.resize(kept);
    places.resize(kept);
  }
  const SignatureIndex index(signature);
  pieces_.clear();
  searchedPages_ = numbers.size();
  PieceSink sink(places, pieces_);
  Matcher matcher(index, sink, true);
  std::array<uint8_t, kPageBytes> page;
  for (const uint64_t number : numbers) {
    DH_TRY(const bool isHole, target_.readRange(number * kPageBytes, page));
    if (!isHole) statistics_.readBytes += kPageBytes;
    DH_CHECK(matcher.feed(page));
  }
  return matcher.finish();
}

// Whether all of the basis' sums are likely to find enough.
Result<bool> PageInquiry::judgeSample() {
  DH_CHECK(search(kMaxSampledPages));
  uint64_t found = 0;
  for (const Piece& piece : pieces_) found += piece.bytes;
  uint64_t lost = 0;
  (void)forEachLostPage([&](uint64_t, uint64_t) -> Status {
    ++lost;
    return {};
  });
  const uint64_t hundredths = found * rollingOneIn_ * 100 / (searchedPages_ * kPageBytes);
  return hundredths >= std::max(kLeastFound, ways_.here ? 0 : kFoundForFree * freePages(1).size() / lost);
}

Status PageInquiry::takeRolling() {
  DH_CHECK(search(kMaxSearchedPages));
  // Of a page of which little was found, more may be found at the place of its neighbours.
  size_t kept = 0;
  for (size_t i = 0; i < pieces_.size();) {
    size_t end = i;
    size_t bytes = 0;
    while (end < pieces_.size() && pieces_[end].place == pieces_[i].place) bytes += pieces_[end++].bytes;
    if (bytes >= kLeastInPieces) {
      found_[pieces_[i].place] = kInPieces;
      kept += static_cast<size_t>(std::copy(pieces_.begin() + static_cast<ptrdiff_t>(i),
                                            pieces_.begin() + static_cast<ptrdiff_t>(end),
                                            pieces_.begin() + static_cast<ptrdiff_t>(kept)) -
                                  (pieces_.begin() + static_cast<ptrdiff_t>(kept)));
    }
    i = end;
  }
  pieces_.resize(kept);
  return {};
}

void PageInquiry::openWindows() {
  indexed_ = true;
  while (windows_.size() < kMaxWindows && nextSegment_ < segments() && !pairs_.isUndecided()) {
    windowSegments_ = std::clamp<uint64_t>(2 * windowSegments_, 1, kMaxWindowSegments);
    const uint64_t number = firstWindow_ + windows_.size();
    Window& window = windows_.emplace_back();
    window.begin = nextSegment_;
    uint64_t open = 0;
    while (nextSegment_ < segments() && open < windowSegments_ && nextSegment_ - window.begin < kMaxWindowSpan) {
      if (!settled_[nextSegment_++]) ++open;
    }
    window.end = nextSegment_;
    classify(window);
    if (window.asked.empty()) continue;
    SumQuery query{kEighthShift, partSumBytes_, {}};
    for (const uint32_t at : window.asked) query.add(uint64_t{window.pages[at].old} * 8, 8);
    window.stage = Window::Stage::kEighths;
    ask(std::move(query), Awaited::Kind::kWindow, number);
  }
}

void PageInquiry::classify(Window& window) {
  const int64_t shiftBefore = shift_;
  for (uint64_t segment = window.begin; segment < window.end; ++segment) {
    if (settled_[segment]) {
      shift_ = 0;
      continue;
    }
    const uint64_t first = segment * kPagesPerSegment;
    const uint64_t pages = std::min<uint64_t>(kPagesPerSegment, target_.bytes() / kPageBytes - first);
    for (uint64_t i = 0; i < pages; ++i, ++openedPages_) {
      Page& page = window.pages.emplace_back();
      page.number = static_cast<uint32_t>(first + i);
      page.place = openedPages_;
      page.sum = sumsOfPages_[openedPages_];
      const uint32_t found = found_[openedPages_];
      if (found == kNone) {
        if (page.sum == zeroPageSum_) page.kind = Page::Kind::kZero;
        continue;
      }
      if (found == kInPieces) {
        page.kind = Page::Kind::kPieces;
        continue;
      }
      page.kind = (found & kVoted) != 0 ? Page::Kind::kPaired : Page::Kind::kSame;
      page.old = found & ~kVoted;
      if (isTelling(page.old)) shift_ = page.shift();
    }
  }
  if (!ways_.exact && !summedSegments_.empty()) pair(window, shiftBefore);
}

bool PageInquiry::isOldPage(uint64_t old, uint64_t sum) const {
  if (old >= oldPages() || sumsOfSegment_.empty()) return false;
  const uint32_t place = sumsOfSegment_[old / kPagesPerSum];
  if (place == kNone) return false;
  const uint64_t at = uint64_t{place} * kPagesPerSum + old % kPagesPerSum;
  return sumAt(pageSums_.data() + at * pageSumBytes_, pageSumBytes_) == firstBytes(sum, pageSumBytes_);
}

// A page of the basis that may well have become another.
bool PageInquiry::isFree(int64_t old) const {
  if (old < 0 || static_cast<uint64_t>(old) >= oldPages()) return false;
  return !used_[static_cast<uint64_t>(old)] && sumsOfSegment_[static_cast<uint64_t>(old) / kPagesPerSum] != kNone;
}

// What was not found is taken for the later self of the page that its neighbours' shifts lead to.
void PageInquiry::pair(Window& window, int64_t shiftBefore) {
  std::vector<Page>& pages = window.pages;
  std::vector<int64_t> shiftAfter(pages.size());
  int64_t shift = shift_;
  for (size_t i = pages.size(); i-- > 0;) {
    if (i + 1 < pages.size() && pages[i + 1].number != pages[i].number + 1) shift = 0;
    if (pages[i].isFound() && isTelling(pages[i].old)) shift = pages[i].shift();
    shiftAfter[i] = shift;
  }
  shift = shiftBefore;
  for (size_t i = 0; i < pages.size(); ++i) {
    Page& page = pages[i];
    if (i > 0 && pages[i - 1].number + 1 != page.number) shift = 0;
    if (page.isFound() && isTelling(page.old)) shift = page.shift();
    if (page.kind == Page::Kind::kPaired) {
      page.open = 0xff;
      window.asked.push_back(static_cast<uint32_t>(i));
    }
    if (page.kind != Page::Kind::kFresh) continue;
    for (const int64_t candidate : {shift, shiftAfter[i], int64_t{0}}) {
      const int64_t old = int64_t{page.number} + candidate;
      if (!isFree(old)) continue;
      if (!pairs_.isWorth(kEighthsForPair, true)) break;
      ++pairs_.asks;
      page.kind = Page::Kind::kPaired;
      page.old = static_cast<uint32_t>(old);
      page.open = 0xff;
      window.asked.push_back(static_cast<uint32_t>(i));
      break;
    }
  }
}

Status PageInquiry::judgeEighths(Window& window, uint64_t number) {
  std::vector<uint32_t> asked;
  SumQuery query{kPartShift, partSumBytes_, {}};
  std::array<uint8_t, kPageBytes> bytes;
  std::array<uint64_t, 8> hashes;
  const uint8_t* sums = sums_.data();
  for (const uint32_t at : window.asked) {
    Page& page = window.pages[at];
    DH_TRY(const bool isHole, target_.readRange(uint64_t{page.number} * kPageBytes, bytes));
    if (!isHole) statistics_.readBytes += kPageBytes;
    blake3KeyedBlocks(key_, bytes.data(), kEighthBytes, 8, hashes.data());
    page.open = 0;
    for (unsigned i = 0; i < 8; ++i, sums += partSumBytes_) {
      if (sumAt(sums, partSumBytes_) == firstBytes(hashes[i], partSumBytes_)) {
        page.equal |= uint64_t{0xff} << (8 * i);
      } else {
        page.open = static_cast<uint8_t>(page.open | 1u << i);
      }
    }
    ++pairs_.looks;
    pairs_.found += static_cast<uint64_t>(8 - std::popcount(page.open));
    // It is not the old page, so one of these is not what it seems.
    if (page.open == 0) page.kind = Page::Kind::kFresh;
    if (page.kind == Page::Kind::kFresh) continue;
    const bool isStranger = page.open == 0xff;
    Odds& odds = isStranger ? partsOfStrangers_ : parts_;
    if (!odds.isWorth(kPartsForEighth, !isStranger)) continue;
    odds.asks += static_cast<uint64_t>(std::popcount(page.open));
    asked.push_back(at);
    for (unsigned i = 0; i < 8; ++i) {
      if ((page.open >> i & 1) != 0) query.add((uint64_t{page.old} * 8 + i) * 8, 8);
    }
  }
  window.asked = std::move(asked);
  window.stage = window.asked.empty() ? Window::Stage::kReady : Window::Stage::kParts;
  if (!window.asked.empty()) ask(std::move(query), Awaited::Kind::kWindow, number);
  return {};
}

Status PageInquiry::judgeParts(Window& window) {
  std::array<uint8_t, kPageBytes> bytes;
  std::array<uint64_t, 8> hashes;
  const uint8_t* sums = sums_.data();
  for (const uint32_t at : window.asked) {
    Page& page = window.pages[at];
    DH_TRY(const bool isHole, target_.readRange(uint64_t{page.number} * kPageBytes, bytes));
    if (!isHole) statistics_.readBytes += kPageBytes;
    Odds& odds = page.open == 0xff ? partsOfStrangers_ : parts_;
    for (unsigned eighth = 0; eighth < 8; ++eighth) {
      if ((page.open >> eighth & 1) == 0) continue;
      blake3KeyedBlocks(key_, bytes.data() + eighth * kEighthBytes, kPartBytes, 8, hashes.data());
      uint64_t equal = 0;
      for (unsigned i = 0; i < 8; ++i, sums += partSumBytes_) {
        if (sumAt(sums, partSumBytes_) == firstBytes(hashes[i], partSumBytes_)) equal |= uint64_t{1} << i;
      }
      ++odds.looks;
      odds.found += static_cast<uint64_t>(std::popcount(equal));
      if (equal != 0xff) page.equal |= equal << (8 * eighth);
    }
  }
  window.asked.clear();
  window.stage = Window::Stage::kReady;
  return {};
}

Status PageInquiry::tell(DeltaSink& sink, const Progress& onProgress) {
  while (!windows_.empty() && windows_.front().stage == Window::Stage::kReady) {
    DH_CHECK(tellWindow(windows_.front(), sink));
    if (!onProgress(target_.bytes() / 2 + windows_.front().end * kContentSegmentBytes / 2)) {
      return Error{Code::kCancelled, "send pages", 0};
    }
    windows_.pop_front();
    ++firstWindow_;
    openWindows();
  }
  return {};
}

Status PageInquiry::tellWindow(const Window& window, DeltaSink& sink) {
  size_t at = 0;
  for (uint64_t segment = window.begin; segment < window.end; ++segment) {
    if (settled_[segment]) {
      DH_CHECK(tellSettled(segment, sink));
      continue;
    }
    DH_TRY(const ByteSpan bytes, readSegment(segment));
    hasher_.update(bytes);
    const size_t pages = bytes.size() / kPageBytes;
    buffers_.hashes.resize(pages);
    blake3KeyedBlocks(key_, bytes.data(), kPageBytes, pages, buffers_.hashes.data());
    for (size_t i = 0; i < pages; ++i) {
      DH_CHECK(tellPage(window.pages[at + i], bytes.data() + i * kPageBytes, buffers_.hashes[i], sink));
    }
    at += pages;
    const ByteSpan rest = bytes.subspan(pages * kPageBytes);
    if (rest.empty()) continue;
    uint64_t sum = 0;
    blake3KeyedBlocks(key_, rest.data(), rest.size(), 1, &sum);
    if (restSum_ == sum) {
      statistics_.matchedBytes += rest.size();
      DH_CHECK(sink.copy(segment * kContentSegmentBytes + pages * kPageBytes, rest.size()));
    } else {
      DH_CHECK(sink.literal(rest));
    }
  }
  return {};
}

Status PageInquiry::tellSettled(uint64_t segment, DeltaSink& sink) {
  hasher_.updateSegment(digests_[segment]);
  for (size_t i = 0; i < kSumsPerSegment; ++i) {
    const uint64_t number = segment * kSumsPerSegment + i;
    if (zero_[number]) {
      statistics_.zeroBytes += kSumSegmentBytes;
      DH_CHECK(sink.zeros(kSumSegmentBytes));
    } else {
      statistics_.matchedBytes += kSumSegmentBytes;
      DH_CHECK(sink.copy(number * kSumSegmentBytes, kSumSegmentBytes));
    }
  }
  return {};
}

Status PageInquiry::tellPage(const Page& page, const uint8_t* bytes, uint64_t sum, DeltaSink& sink) {
  const ByteSpan content(bytes, kPageBytes);
  const uint64_t old = uint64_t{page.old} * kPageBytes;
  if (isZero(content)) {
    statistics_.zeroBytes += kPageBytes;
    return sink.zeros(kPageBytes);
  }
  if (sum == page.sum && page.kind == Page::Kind::kSame) {
    statistics_.matchedBytes += kPageBytes;
    return sink.copy(old, kPageBytes);
  }
  if (sum == page.sum && page.kind == Page::Kind::kPieces) return tellPieces(page.place, content, sink);
  if (sum != page.sum || page.kind != Page::Kind::kPaired) return sink.literal(content);
  for (unsigned i = 0; i < 64;) {
    const bool equal = (page.equal >> i & 1) != 0;
    unsigned end = i + 1;
    while (end < 64 && ((page.equal >> end & 1) != 0) == equal) ++end;
    const size_t length = (end - i) * kPartBytes;
    if (equal) statistics_.matchedBytes += length;
    DH_CHECK(equal ? sink.copy(old + i * kPartBytes, length) : sink.literal(content.subspan(i * kPartBytes, length)));
    i = end;
  }
  return {};
}

Status PageInquiry::tellPieces(uint32_t place, ByteSpan content, DeltaSink& sink) {
  const auto isBefore = [](const Piece& piece, uint32_t wanted) { return piece.place < wanted; };
  size_t done = 0;
  for (auto piece = std::lower_bound(pieces_.begin(), pieces_.end(), place, isBefore);
       piece != pieces_.end() && piece->place == place; ++piece) {
    if (piece->begin > done) DH_CHECK(sink.literal(content.subspan(done, piece->begin - done)));
    statistics_.matchedBytes += piece->bytes;
    DH_CHECK(sink.copy(piece->old, piece->bytes));
    done = size_t{piece->begin} + piece->bytes;
  }
  return done < kPageBytes ? sink.literal(content.subspan(done)) : Status();
}

}  // namespace deltahop
