// What the parts of a receiver share about the tree that they make.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "io/directory.h"
#include "job/common_files.h"
#include "tree/metadata.h"
#include "tree/partial_directory.h"
#include "tree/scan.h"
#include "tree/tree.h"
#include "tree/tree_plan.h"

namespace deltahop {

/// The tree as it lies here, as it is wanted, and what has become of it so far. Belongs to the applying thread, except
/// for `partial`, and what does not change while files are exchanged: root, own, wanted, plan and what is common.
struct TreeInMaking {
  Directory root;
  Tree own;
  Tree wanted;
  TreePlan plan;
  PartialDirectory partial;
  CommonBasis common;             // what the sender holds as well
  uint32_t commonFor = kNoEntry;  // the one file that is asked for against that
  std::optional<ParentCache> wantedParents;
  std::vector<bool> touched;  // directories in which something was made or removed
  std::vector<bool> missing;  // entries that could not be had

  /// Puts the unfinished entry `name` under the path of the wanted entry, in place of what is there; of a directory
  /// only if `deleteOthers`, or if it is empty.
  Status renameInto(uint32_t index, const std::string& name, bool deleteOthers);
};

/// True if a file that was opened and looked at is still the own entry, and has no other name: then it may keep its
/// content and be given another file's metadata.
bool mayStay(const TreeInMaking& tree, uint32_t own, const struct stat& status);

/// The error, said of this path.
Error withPath(Error error, const std::string& path);

}  // namespace deltahop
