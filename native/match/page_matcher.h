// The matcher of page-structured files (memory images, disks) whose basis lies here: finds what is the same, and for
// what is not, the old page that it most likely was.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "hash/content_digest.h"
#include "io/page_file.h"
#include "match/page_index.h"
#include "match/page_survey.h"

namespace deltahop {

/// Takes a target page by page, in order. Old offsets are those of the basis, in bytes: what memory holds moves by any
/// number.
class PageSink {
 public:
  virtual ~PageSink() = default;
  /// `count` pages from `oldOffset` on.
  virtual Status same(uint64_t oldOffset, uint64_t count) = 0;
  virtual Status zeros(uint64_t count) = 0;
  /// A page that differs from its likely former self.
  virtual Status changed(const uint8_t* page, uint64_t oldOffset, const uint8_t* old) = 0;
  /// A further page of old bytes that is like a part of the page that follows.
  virtual Status beside(uint64_t oldOffset, const uint8_t* old) = 0;
  /// Bytes like nothing known: a page, or what is left of one at the end of the file.
  virtual Status fresh(ByteSpan bytes) = 0;
};

struct PageStatistics {
  uint64_t readBytes = 0;           // target and basis, all passes
  uint64_t identityBytes = 0;       // the same at the same offset
  uint64_t sharedMatchedBytes = 0;  // found elsewhere in the basis
  uint64_t residualBytes = 0;       // changed
  uint64_t freshBytes = 0;
  uint64_t zeroBytes = 0;
};

/// One pass over one target. Memory: 5 MiB, that of the survey, and 16 bytes for each page of the basis that is not
/// found by that (of 16 million at the most).
class PageMatcher {
 public:
  /// Larger files are not for this matcher.
  static constexpr uint64_t kMaxBytes = uint64_t{1} << 40;

  /// The files must outlive the matcher.
  PageMatcher(PageFile target, PageFile basis, PageSink& sink);
  /// Tells the sink all of the target and gives the content digest of exactly what it told, even if the target is
  /// written meanwhile. `onProgress` is told the bytes done; false ends with kCancelled. kChanged if a file shrank.
  Result<Digest> run(const std::function<bool(uint64_t)>& onProgress);
  const PageStatistics& statistics() const { return statistics_; }

 private:
  Status buildIndex();
  Status indexPages(uint64_t firstPage, size_t pages);
  Status tell(uint64_t segment);
  Status tellSettled(uint64_t firstPage, const SurveyedSegment& surveyed);
  void takeOthers(const SurveyedSegment& surveyed);
  Status tellPages(uint64_t firstPage, size_t pages, const SurveyedSegment& surveyed);
  struct Vote {
    uint64_t offset = UINT64_MAX;
    unsigned count = 0;
  };
  Result<uint64_t> findSame(uint64_t page, const uint8_t* bytes, uint64_t seenAt);
  Status tellChanged(uint64_t page, const uint8_t* bytes, int64_t nextShift);
  std::array<Vote, 2> voteOfAnchors(const uint8_t* bytes) const;

  PageFile target_;
  PageFile basis_;
  PageSink& sink_;
  PageSurvey survey_;
  std::unique_ptr<uint8_t[]> segment_;
  std::unique_ptr<uint8_t[]> old_;
  PageIndex pages_;
  PageIndex anchors_;
  bool anchorsOfAll_ = false;
  std::array<uint8_t, kPageBytes> scratch_;
  int64_t shift_ = 0;  // old offset minus target offset of the last one found
  ContentHasher hasher_;
  PageStatistics statistics_;
};

}  // namespace deltahop
