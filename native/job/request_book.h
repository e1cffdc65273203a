// Which files were asked for, and from which basis: the answer is applied to the same.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/basis.h"
#include "job/tree_in_making.h"

namespace deltahop {

/// What the basis of one file consists of.
struct BasisChoice {
  bool live = false;                   // the file at the path itself is its first part
  std::string journal;                 // of a patch in place that was cut: what it would have made of that file
  std::vector<std::string> leftOvers;  // what earlier transfers left, the others
  uint32_t blockBytes = 0;
  bool common = false;          // instead: files that the sender holds as well
  uint32_t offered = kNoEntry;  // instead: an own file that was offered for it, at the path or elsewhere
  Digest digest{};              // of that one
  uint64_t bytes = 0;           // of the whole basis when it was looked at; 0: it was not

  /// There is none: the file is wanted as it is.
  bool isNone() const { return !live && journal.empty() && leftOvers.empty() && offered == kNoEntry && bytes == 0; }
};

/// A file that came wrong, and what came of it: most of it is right.
struct Repair {
  uint32_t index = 0;
  BasisChoice result;
};

/// Chooses and opens what there is for a wanted file; without files if there is nothing.
Result<Basis> chooseBasis(TreeInMaking& tree, ParentCache& parents, uint32_t index, BasisChoice& choice);
/// Opens it again, later; left out, in `choice` too, is what cannot be opened: a basis is only a help.
Result<Basis> openBasis(TreeInMaking& tree, ParentCache& parents, uint32_t index, BasisChoice& choice);

/// Open requests. One thread writes them in, another takes them out and never waits. All files of a new tree may be in
/// it at once: those without a basis, of which there is nothing to be said, take a bit each.
class RequestBook {
 public:
  void add(uint32_t index, BasisChoice choice);
  /// Every answer must be to a request, and the only one to it: else kProtocol.
  Result<BasisChoice> take(uint64_t index);
  /// What one of them is asked from; kProtocol if it is none of them.
  Result<BasisChoice> choiceOf(uint64_t index) const;
  bool isEmpty() const;
  /// Takes out all that are still open, in order.
  std::vector<uint32_t> takeAll();

  /// An offered file is not what was offered, and has to be asked for in another way; kProtocol if it is none.
  Status differs(uint64_t index);
  bool hasDiffering() const;
  /// The next file of which this was said, once; waits for it while there are offers without an answer.
  std::optional<uint32_t> takeDiffering();
  /// No more answers will come.
  void close();

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool isOpenWhole(uint64_t index) const { return index < whole_.size() && whole_[index]; }

  std::unordered_map<uint32_t, BasisChoice> open_;
  std::vector<bool> whole_;  // by entry: those without a basis
  size_t openWhole_ = 0;
  size_t openOffers_ = 0;
  std::deque<uint32_t> differing_;
  bool closed_ = false;
};

}  // namespace deltahop
