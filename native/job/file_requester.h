// The receiver's requests.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "job/request_book.h"
#include "job/transfer_job.h"
#include "job/tree_in_making.h"

namespace deltahop {

/// Asks for files, with the signature of what there is of them here, on a thread of its own.
class FileRequester {
 public:
  /// All must outlive the requester. `stop` ends it with kCancelled.
  FileRequester(TreeInMaking& tree, RequestBook& book, const Key& key, MessageWriter& out,
                const std::atomic<bool>& stop)
      : tree_(tree), book_(book), key_(key), out_(out), stop_(stop), parents_(tree.root, tree.wanted) {}

  /// Requests all of them, and says that this was all.
  Status request(const std::vector<uint32_t>& files, bool withBasis);

  uint64_t signatureBytes() const { return signatureBytes_; }
  uint64_t readBytes() const { return readBytes_; }

 private:
  Status flushWhole();
  Status sendSignature(uint32_t index, const Basis& basis);

  TreeInMaking& tree_;
  RequestBook& book_;
  const Key& key_;
  MessageWriter& out_;
  const std::atomic<bool>& stop_;
  ParentCache parents_;
  std::vector<uint32_t> whole_;
  uint64_t signatureBytes_ = 0;
  uint64_t readBytes_ = 0;
};

}  // namespace deltahop
