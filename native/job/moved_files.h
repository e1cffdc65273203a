// Files that lie elsewhere in the receiver's tree than the sender has them.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "tree/tree.h"

namespace deltahop {

/// Finds own files that a wanted one may be under another path: by what moving and copying leave as it was. Memory: 16
/// bytes for each own file, once one was looked for.
class MovedFiles {
 public:
  /// Both must outlive this.
  MovedFiles(const Tree& own, const Tree& wanted) : own_(own), wanted_(wanted) {}
  /// The own entry, or kNoEntry.
  uint32_t find(uint32_t wanted);

 private:
  const Tree& own_;
  const Tree& wanted_;
  bool isIndexed_ = false;
  std::vector<std::pair<uint64_t, uint32_t>> bySize_;
};

}  // namespace deltahop
