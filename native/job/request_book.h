// Which files were asked for, and from which basis: the answer is applied to the same.
#pragma once

#include <cstdint>
#include <mutex>
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
};

/// Chooses and opens what there is for a wanted file; without files if there is nothing.
Result<Basis> chooseBasis(TreeInMaking& tree, ParentCache& parents, uint32_t index, BasisChoice& choice);
/// Opens it again, later; left out, in `choice` too, is what cannot be opened: a basis is only a help.
Result<Basis> openBasis(TreeInMaking& tree, ParentCache& parents, uint32_t index, BasisChoice& choice);

/// Open requests. One thread writes them in, another takes them out.
class RequestBook {
 public:
  void add(uint32_t index, BasisChoice choice);
  /// Every answer must be to a request, and the only one to it: else kProtocol.
  Result<BasisChoice> take(uint64_t index);
  bool isEmpty() const;
  /// Takes out all that are still open, in order.
  std::vector<uint32_t> takeAll();

 private:
  mutable std::mutex mutex_;
  std::unordered_map<uint32_t, BasisChoice> open_;
};

}  // namespace deltahop
