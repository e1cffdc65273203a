// The first look at a page-structured file beside its basis: which pages are where they were, or all a bit further on.
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
  SegmentBits same{};  // as in the basis `shift` bytes further on, zeros among them
  SegmentBits zero{};
  int64_t shift = 0;
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

/// Reads all of both files once, or little more, large ones by two threads; what they are said to hold may change the
/// moment after. Memory: 4 MiB while it runs, 16 MiB of pages that are not the same, 160 bytes a segment.
class PageSurvey {
 public:
  /// The files must outlive the survey.
  PageSurvey(const PageFile& target, const PageFile& basis);
  /// `onProgress` is told the bytes done, on this thread; false ends with kCancelled. kChanged if a file shrank.
  Status run(const std::function<bool(uint64_t)>& onProgress);

  uint64_t segments() const { return segments_.size(); }
  const SurveyedSegment& segment(uint64_t number) const { return segments_[number]; }
  /// Whether the basis' page is one of the target's.
  bool isUsed(uint64_t basisPage) const;
  uint64_t usedPages() const;
  /// Pages that are neither the same nor zero.
  uint64_t otherPages() const { return otherPages_.load(); }
  uint64_t readBytes() const { return readBytes_.load(); }

 private:
  /// What a thread works with.
  struct Hand {
    PageFile target;
    PageFile basis;
    std::span<uint8_t> bytes;  // of a segment
    std::span<uint8_t> old;
    int64_t shift = 0;  // of the last segment, in bytes
    unsigned vainSearches = 0;
  };

  Status surveySegment(uint64_t number, Hand& hand);
  Result<SegmentBits> compare(const SurveyedSegment& segment, uint64_t firstPage, ByteSpan bytes, int64_t shift,
                              Hand& hand);
  Result<int64_t> searchShift(const SurveyedSegment& segment, uint64_t firstPage, ByteSpan bytes, Hand& hand);
  void markUsed(const SurveyedSegment& segment, uint64_t firstPage);
  void keepOthers(SurveyedSegment& segment, ByteSpan bytes);

  const PageFile& target_;
  const PageFile& basis_;
  std::vector<SurveyedSegment> segments_;
  std::vector<std::atomic<uint64_t>> used_;  // a bit for each page of the basis
  std::atomic<uint64_t> otherPages_{0};
  std::atomic<uint64_t> readBytes_{0};
  std::atomic<uint64_t> keptBytes_{0};
};

}  // namespace deltahop
