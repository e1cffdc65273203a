// The first look at a page-structured file beside its basis: which pages are where they were.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "hash/content_digest.h"
#include "io/page_file.h"

namespace deltahop {

inline constexpr size_t kPagesPerSegment = kContentSegmentBytes / kPageBytes;

/// One bit for each page of a segment.
using SegmentBits = std::array<uint64_t, kPagesPerSegment / 64>;

/// What was seen of a segment of the target.
struct SurveyedSegment {
  SegmentBits same{};  // as in the basis at the same offset, zeros among them
  SegmentBits zero{};
  /// All of the segment was seen at one time and need not be read again: `digest` is its digest, and `others` has the
  /// pages that are neither the same nor zero, in order.
  bool isKnown = false;
  Digest digest{};
  std::unique_ptr<uint8_t[]> others;

  bool isSame(size_t page) const { return (same[page / 64] >> (page % 64) & 1) != 0; }
  bool isZero(size_t page) const { return (zero[page / 64] >> (page % 64) & 1) != 0; }
  bool allSame() const;
  bool allZero() const;
};

/// Reads all of both files once, large ones by two threads; what they are said to hold may change the moment after.
/// Memory: 4 MiB while it runs, 16 MiB of pages that are not the same, 120 bytes a segment.
class PageSurvey {
 public:
  /// The files must outlive the survey.
  PageSurvey(const PageFile& target, const PageFile& basis);
  /// `onProgress` is told the bytes done, on this thread; false ends with kCancelled. kChanged if a file shrank.
  Status run(const std::function<bool(uint64_t)>& onProgress);

  uint64_t segments() const { return segments_.size(); }
  const SurveyedSegment& segment(uint64_t number) const { return segments_[number]; }
  /// Whether the basis' page is where it was.
  bool isUsed(uint64_t basisPage) const;
  uint64_t usedPages() const;
  /// Pages that are neither the same nor zero.
  uint64_t otherPages() const { return otherPages_.load(); }
  uint64_t readBytes() const { return readBytes_.load(); }

 private:
  Status surveySegment(uint64_t number, PageFile& target, PageFile& basis, std::span<uint8_t> buffers);
  void keepOthers(SurveyedSegment& segment, ByteSpan bytes);

  const PageFile& target_;
  const PageFile& basis_;
  std::vector<SurveyedSegment> segments_;
  std::atomic<uint64_t> otherPages_{0};
  std::atomic<uint64_t> readBytes_{0};
  std::atomic<uint64_t> keptBytes_{0};
};

}  // namespace deltahop
