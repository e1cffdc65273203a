// The receiver's requests.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "job/moved_files.h"
#include "job/offers.h"
#include "job/page_requests.h"
#include "job/request_book.h"
#include "job/transfer_job.h"
#include "job/tree_in_making.h"

namespace deltahop {

/// Asks for files: offers what they may be, else with the signature of what there is of them here or page by page, and
/// answers what the sender wants to know of the latter; on a thread of its own.
class FileRequester {
 public:
  /// All must outlive the requester. `stop` ends it with kCancelled. `version` is that of the transfer.
  FileRequester(TreeInMaking& tree, RequestBook& book, PageRequests& pages, uint16_t version, const Key& key,
                MessageWriter& out, const std::atomic<bool>& stop)
      : tree_(tree),
        book_(book),
        pages_(pages),
        offerBytes_(version >= kDiffersVersion ? kOfferBytes : kLoneOfferBytes),
        key_(key),
        out_(out),
        stop_(stop),
        parents_(tree.root, tree.wanted),
        ownParents_(tree.root, tree.own) {}

  /// Requests all of them, says that this was all, and answers questions until no more will come.
  Status request(const std::vector<uint32_t>& files);
  /// The same for files that came wrong.
  Status requestRepairs(const std::vector<Repair>& repairs);

  uint64_t signatureBytes() const { return signatureBytes_; }
  uint64_t readBytes() const { return readBytes_; }

 private:
  // A file to be asked for by pages.
  struct Paged {
    uint32_t index = 0;
    BasisChoice choice;
    uint8_t flags = 0;
  };
  Status requestWhole(uint32_t index);
  Status requestFile(uint32_t index, std::vector<Paged>& paged);
  Status finish(std::vector<Paged> paged);
  Status requestPages(Paged paged);
  Status requestCommon(Paged paged);
  Status answerQuestions(bool wait);
  Status answer(const PageRequests::Question& question);
  Status sendSums(uint32_t index, PageSums& sums, const SumQuery& query);
  Result<bool> offer(uint32_t index);
  uint32_t findOffer(uint32_t index);
  std::optional<Digest> digestOfOffer(uint32_t own, bool isPartner);
  Status flushWhole();
  Status flushOffers();
  Status sendSignature(uint32_t index, const Basis& basis);

  TreeInMaking& tree_;
  RequestBook& book_;
  PageRequests& pages_;
  const size_t offerBytes_;
  const Key& key_;
  MessageWriter& out_;
  const std::atomic<bool>& stop_;
  ParentCache parents_;
  ParentCache ownParents_;
  // On their way.
  FileListWriter whole_;
  FileListWriter offers_;
  MovedFiles moved_{tree_.own, tree_.wanted};
  Bytes content_;
  Packer packer_{1};
  // The basis that was asked about last.
  uint32_t basisIndex_ = kNoEntry;
  Basis basis_;
  uint64_t signatureBytes_ = 0;
  uint64_t readBytes_ = 0;
};

}  // namespace deltahop
