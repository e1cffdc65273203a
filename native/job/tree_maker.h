// Everything of a tree that is no content of files.
#pragma once

#include <cstdint>

#include "job/receive_job.h"
#include "job/tree_in_making.h"
#include "tree/metadata.h"

namespace deltahop {

/// Makes directories before the files arrive, and all else afterwards. Runs on the applying thread.
class TreeMaker {
 public:
  /// All must outlive the maker.
  TreeMaker(const ReceiveJobOptions& options, TreeInMaking& tree, Notes& notes, const CancelCheck& cancelled)
      : options_(options), tree_(tree), notes_(notes), cancelled_(cancelled) {}

  /// Directories first, so that every file finds its own; their metadata comes last.
  Status prepareDirectories();
  /// Links, symlinks, devices, and the metadata of files whose content was right.
  Status finishEntries();
  /// Only what our own scan found, and only if the sender saw its whole tree (else the plan has none).
  Status deleteOthers();
  /// Deepest first, and after everything else: what is made in a directory changes its mtime.
  Status finishDirectories();

  uint64_t deletedEntries() const { return deletedEntries_; }

 private:
  Status makeAccessible(uint32_t index, const std::string& name);
  Status makeEntry(uint32_t index);

  const ReceiveJobOptions& options_;
  TreeInMaking& tree_;
  Notes& notes_;
  const CancelCheck& cancelled_;
  uint64_t deletedEntries_ = 0;
};

}  // namespace deltahop
