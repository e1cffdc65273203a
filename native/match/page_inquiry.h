// The matcher of page-structured files whose basis lies elsewhere: asks for sums of it, coarse to fine, and tells what
// of the target need not be sent. FORMATS.md section 9.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "hash/content_digest.h"
#include "io/page_file.h"
#include "match/matcher.h"
#include "match/page_index.h"
#include "signature/page_sums.h"

namespace deltahop {

struct InquiryStatistics {
  uint64_t readBytes = 0;  // of the target, all passes
  uint64_t matchedBytes = 0;
  uint64_t zeroBytes = 0;
};

/// One target. Memory: 8 bytes for each 256 KiB of both files, up to 8 + 21 bytes for each page of the basis of which
/// the 256 KiB are not where they were, 12 for each page of the target of which the MiB is not, 1 MiB for the windows
/// that are being asked about, and 30 MiB at most for what is searched at all offsets.
class PageInquiry {
 public:
  /// What is read of the target at a time; may be shared by inquiries of one thread.
  struct Buffers {
    Bytes segment;
    std::vector<uint64_t> hashes;
  };
  /// Told the bytes of the target that are done; false ends with kCancelled.
  using Progress = std::function<bool(uint64_t)>;

  struct Ways {
    bool exact = false;    // what is found must be the same (a result was wrong): sums of full length, none of parts
    bool rolling = false;  // the other side makes rolling sums
    bool here = false;     // sums are made on this side and cost no bytes: all of full length, and none too many
  };
  /// All that is referred to must outlive the inquiry.
  PageInquiry(PageFile target, uint64_t basisBytes, Ways ways, const Key& key, Buffers& buffers);

  /// Sums, as they come: first those of all segments, then the answers to the queries in their order. kProtocol for
  /// more than was asked.
  Status takeSums(ByteSpan sums, const Progress& onProgress);
  /// The next query to be sent, if there is one.
  std::optional<SumQuery> takeQuery();
  /// Tells the sink what is known; only the bytes told so far are in the digest. kChanged if the target shrank.
  Status tell(DeltaSink& sink, const Progress& onProgress);
  bool allTold() const { return indexed_ && nextSegment_ == segments() && windows_.empty(); }
  /// Of exactly what was told, even if the target is written meanwhile. Call once, when all is told.
  Digest digest() { return hasher_.finish(); }
  uint64_t bytes() const { return target_.bytes(); }
  const InquiryStatistics& statistics() const { return statistics_; }

 private:
  // What is known of one page of the target that is not in a settled segment.
  struct Page {
    enum class Kind : uint8_t { kFresh, kZero, kSame, kPaired, kPieces };
    Kind kind = Kind::kFresh;
    uint8_t open = 0;  // which eighths are not the old page's, or not known to be
    uint32_t number = 0;
    uint32_t old = 0;    // number of the page of the basis
    uint64_t sum = 0;    // of the page as it was looked at: one that is another when it is told is sent
    uint64_t equal = 0;  // which 64ths are the old page's
    uint32_t place = 0;  // in sumsOfPages_

    bool isFound() const { return kind == Kind::kSame || kind == Kind::kPaired; }
    int64_t shift() const { return int64_t{old} - int64_t{number}; }
  };
  // Pages that are asked about together.
  struct Window {
    enum class Stage : uint8_t { kEighths, kParts, kReady };
    Stage stage = Stage::kReady;
    uint64_t begin = 0;  // content segments
    uint64_t end = 0;
    std::vector<Page> pages;  // of the segments that are not settled
    std::vector<uint32_t> asked;
  };
  // An answer that is awaited.
  struct Awaited {
    enum class Kind : uint8_t {
      kSegments,
      kPageSample,
      kPartSample,
      kPages,
      kVoteSample,
      kVotes,
      kSample,
      kRolling,
      kWindow
    };
    Kind kind = Kind::kSegments;
    uint64_t bytes = 0;
    uint64_t window = 0;  // its number
  };
  // A part of a page that lies somewhere in the basis.
  struct Piece {
    uint32_t place = 0;  // of the page in sumsOfPages_
    uint16_t begin = 0;
    uint16_t bytes = 0;
    uint64_t old = 0;
  };
  class PieceSink;
  // How often a finer look was worth it.
  struct Odds {
    uint64_t asks = 0;
    uint64_t looks = 0;  // asks that were answered
    uint64_t found = 0;
    uint64_t skipped = 0;
    // Whether one more is likely to find this many, in a hundred looks; while that is not known, a sample is tried, and
    // what is more, `byDefault`. What is not worth it is tried again now and then.
    bool isWorth(uint64_t inHundred, bool byDefault);
    bool isUndecided() const;
  };

  uint64_t segments() const { return (target_.bytes() + kContentSegmentBytes - 1) / kContentSegmentBytes; }
  uint64_t oldPages() const { return basisBytes_ / kPageBytes; }
  Status answered(const Awaited& awaited, const Progress& onProgress);
  Status survey(const Progress& onProgress);
  Status surveySegment(uint64_t segment);
  std::vector<uint32_t> movedSegments() const;
  bool askForPageSample();
  bool isSampleWorth() const;
  Status judgePageSample();
  Status judgePartSample();
  bool askForPages();
  void indexPages();
  void findPages();
  uint64_t findPage(uint64_t number, uint64_t sum, uint64_t shift) const;
  bool isOldPage(uint64_t old, uint64_t sum) const;
  bool isFree(int64_t old) const;
  template <typename Visit>
  Status forEachOpenPage(Visit visit) const;
  bool isTelling(uint64_t old) const;
  template <typename Visit>
  Status forEachLostPage(Visit visit) const;
  std::vector<uint32_t> freePages(uint64_t oneIn) const;
  bool askForVotes();
  bool askForEighths(uint64_t oneIn, Awaited::Kind kind);
  Result<uint64_t> takeVotes(uint64_t onePageIn);
  bool askForSample();
  bool askForRolling(uint64_t oneIn, Awaited::Kind kind);
  Result<bool> judgeSample();
  Status takeRolling();
  Status search(uint64_t mostPages);
  void openWindows();
  void classify(Window& window);
  void pair(Window& window, int64_t shiftBefore);
  Status judgeEighths(Window& window, uint64_t number);
  Status judgeParts(Window& window);
  void ask(SumQuery query, Awaited::Kind kind, uint64_t window);
  Result<std::span<uint8_t>> readSegment(uint64_t segment);
  Status tellWindow(const Window& window, DeltaSink& sink);
  Status tellSettled(uint64_t segment, DeltaSink& sink);
  Status tellPage(const Page& page, const uint8_t* bytes, uint64_t sum, DeltaSink& sink);
  Status tellPieces(uint32_t place, ByteSpan content, DeltaSink& sink);

  PageFile target_;
  const uint64_t basisBytes_;
  const Ways ways_;
  const Key& key_;
  Buffers& buffers_;

  std::deque<Awaited> awaited_;
  std::deque<SumQuery> queries_;
  Bytes sums_;  // of the first that is awaited

  std::vector<uint64_t> oldSegments_;  // their sums
  std::vector<bool> equal_;            // segments of the target that are where they were
  std::vector<bool> zero_;             // or all zeros
  std::vector<bool> settled_;          // content segments that consist of those
  std::vector<Digest> digests_;        // of the settled ones
  std::vector<uint64_t> sumsOfPages_;  // of the others', one after the other
  std::optional<uint64_t> restSum_;    // of what is no whole page, if it is where it was
  uint64_t openBytes_ = 0;             // of segments that are neither
  uint64_t zeroPageSum_ = 0;

  uint64_t sampledPages_ = 0;
  unsigned sampleSumBytes_ = kMaxSumBytes;
  uint64_t foundInSample_ = 0;  // pages, and parts of pages

  bool indexed_ = false;
  unsigned pageSumBytes_ = kMaxSumBytes;
  unsigned partSumBytes_ = kMaxSumBytes;  // of eighths and 64ths
  Bytes pageSums_;                        // of the pages of the basis that may have moved
  std::vector<uint32_t> summedSegments_;  // in which segments of the basis they lie
  std::vector<uint32_t> sumsOfSegment_;   // by segment: its place in there
  PageIndex index_;
  std::vector<bool> used_;      // pages of the basis that were found
  std::vector<bool> repeated_;  // pages of the basis of which there are more
  unsigned voteSumBytes_ = kMaxSumBytes;
  uint64_t votingOneIn_ = 1;     // of the free pages, of which an eighth was asked for
  uint64_t farPages_ = 0;        // pages that nothing near them tells of
  std::vector<uint32_t> found_;  // by page as in sumsOfPages_: that of the basis, with kVoted if a part of it says so
  uint32_t openedPages_ = 0;     // how many of them are in windows that were opened
  uint64_t searchedPages_ = 0;
  uint64_t rollingOneIn_ = 1;  // of the free pages, of which rolling sums were asked for
  unsigned rollingShift_ = 0;
  unsigned rollingSumBytes_ = 0;
  std::vector<Piece> pieces_;  // by place, and then by beginning

  std::deque<Window> windows_;
  uint64_t firstWindow_ = 0;  // number of the first of them
  uint64_t nextSegment_ = 0;  // of the content, in no window yet
  uint64_t windowSegments_ = 0;
  int64_t shift_ = 0;  // old page minus target page of the last one found
  Odds pairs_;
  Odds parts_;
  Odds partsOfStrangers_;
  ContentHasher hasher_;
  InquiryStatistics statistics_;
};

}  // namespace deltahop
