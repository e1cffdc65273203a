// What a receiver has to do to make its own tree the sender's.
#pragma once

#include <cstdint>
#include <vector>

#include "tree/tree.h"

namespace deltahop {

/// What is to be done about one entry of the sender's tree.
enum class Action : uint8_t {
  kSettled,   // already so
  kMetadata,  // a file or directory whose content is right
  kContent,   // a regular file that must be requested
  kMake,      // a directory, symlink, device or fifo that must be made
  kLink,      // a further hard link that must be made
};

struct TreePlan {
  std::vector<Action> actions;     // by entry of the sender's tree
  std::vector<uint32_t> partners;  // the own entry at the same path, or kNoEntry
  std::vector<uint32_t> deletes;   // own entries that the sender lacks: the topmost of each subtree
};

/// Compares the own tree with the sender's. With `verify`, content counts as equal by digest alone (both trees carry
/// them; a file without one is requested); else by size and mtime.
TreePlan planTree(const Tree& own, const Tree& wanted, bool verify);

}  // namespace deltahop
