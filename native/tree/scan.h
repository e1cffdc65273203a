// Reads a directory into a Tree.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "io/directory.h"
#include "tree/metadata.h"
#include "tree/tree.h"

namespace deltahop {

/// Directory at the root of a receiving tree that holds what is not finished. It is no part of any tree: scans skip it
/// and manifests may not name it.
inline constexpr char kPartialDirectory[] = ".deltahop-partial";

/// Asked now and then during long work; true ends it with kCancelled.
using CancelCheck = std::function<bool()>;

/// What tells a later scan that a file is the very same and was not written since, together with its size and mtime.
/// Says nothing of the device, whose number changes with every boot.
struct FileStamp {
  uint64_t inode = 0;  // 0: no stamp, the file says nothing about itself
  int64_t ctimeSeconds = 0;
  uint32_t ctimeNanoseconds = 0;
  bool operator==(const FileStamp&) const = default;
};

struct ScanOptions {
  std::vector<std::string> excludeXattrs;  // full names
  /// The tree is this one entry of `root` (with what is beneath it, nothing if it is not there) under a root without
  /// metadata, so that what is beside it plays no part.
  std::optional<std::string> onlyEntry = {};
  /// Note the stamps of regular files.
  bool stamps = false;
};

struct ScanResult {
  Tree tree;
  /// By entry, if asked for. A file that was written so recently that the file system's clock could hide a further
  /// change has none.
  std::vector<FileStamp> stamps;
  /// False if something could not be read (noted): the tree then says nothing about what does not exist.
  bool complete = true;
};

/// One pass over all that is beneath `root`, other mounts included; contents are not read. Sockets are left out with a
/// note, as is what vanished while it was looked at. Errors: kIo on the root itself, kLimit, kCancelled.
Result<ScanResult> scanTree(const Directory& root, const ScanOptions& options, Notes& notes,
                            const CancelCheck& cancelled = {});

/// How addContentDigests() goes about it.
struct ContentDigestOptions {
  /// A vanished, changing or forbidden file is an error rather than one without a digest.
  bool strict = true;
  /// Files that carry a digest already are not read.
  bool missingOnly = false;
  /// Told the bytes read so far.
  std::function<void(uint64_t)> onBytes;
};

/// Whether every regular file carries its content digest (hard links at the leader).
bool hasAllDigests(const Tree& tree);

/// Reads every regular file of a scanned tree and adds its content digest (hard links once, at the leader).
Status addContentDigests(const Directory& root, Tree& tree, const ContentDigestOptions& options,
                         const CancelCheck& cancelled = {});

/// Opens parents of entries, remembering the last one: neighbours in a manifest share theirs.
class ParentCache {
 public:
  ParentCache(const Directory& root, const Tree& tree) : root_(root), tree_(tree) {}
  /// The directory that holds entry `index` (which is not the root). Valid until the next call.
  Result<const Directory*> parentOf(uint32_t index);
  /// Forgets the last one, e.g. because it was replaced.
  void forget() { last_ = kNoEntry; }

 private:
  const Directory& root_;
  const Tree& tree_;
  uint32_t last_ = kNoEntry;
  Directory directory_;
};

}  // namespace deltahop
