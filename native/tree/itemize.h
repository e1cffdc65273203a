// What a receiver is about to change, line by line, in the notation that users of rsync know (its --itemize-changes).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tree/tree_plan.h"

namespace deltahop {

struct ItemList {
  /// Lines `YXcstpoguax PATH`, each ended by a newline: deletions first, then the sender's order. PATH is valid UTF-8
  /// without control characters: any other byte, and a backslash that could be taken for such an escape, is `\#` and
  /// three octal digits, as rsync writes it. Directories end in '/', the root is "./"; links say where to.
  std::string text;
  /// Changes beyond kMaxItemBytes of text.
  uint64_t omitted = 0;
};

inline constexpr size_t kMaxItemBytes = 32 << 20;

/// How the root is told.
enum class RootItem : uint8_t {
  kAsItIs,
  kMade,   // it was not there before
  kApart,  // it is only the place of an entry, and has no metadata of its own
};

/// @param skipped entries of `wanted` that will not be made.
/// @param withOwners whether owners can be set here, so that their differences count.
ItemList itemize(const Tree& own, const Tree& wanted, const TreePlan& plan, const std::vector<bool>& skipped,
                 bool withOwners, RootItem root);

}  // namespace deltahop
