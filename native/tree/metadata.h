// Metadata of one entry, read from and written to the file system.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "io/directory.h"
#include "io/file.h"
#include "tree/tree.h"

namespace deltahop {

/// What was left out on purpose, for the report; only the first kMaxNotes are kept word for word.
class Notes {
 public:
  static constexpr size_t kMaxNotes = 100;
  void add(std::string note);
  /// All kept notes and, if there were more, a last one with their number.
  std::vector<std::string> take();

 private:
  std::vector<std::string> notes_;
  uint64_t more_ = 0;
};

/// All extended attributes of an entry, sorted by name, without those named in `exclude`. Works for every kind of
/// entry, never follows a symlink. A file system without extended attributes gives none.
Result<XattrList> readXattrs(const Directory& directory, const std::string& name,
                             const std::vector<std::string>& exclude);
/// The same for the directory itself.
Result<XattrList> readOwnXattrs(const Directory& directory, const std::vector<std::string>& exclude);

/// The metadata that an entry is to have.
struct Metadata {
  uint32_t mode = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  int64_t mtimeSeconds = 0;
  uint32_t mtimeNanoseconds = 0;
  const XattrList* xattrs = nullptr;
};

/// That of entry `index` of a tree; refers to the tree's list of extended attributes.
Metadata metadataOf(const Tree& tree, uint32_t index);

/// Gives an open file or directory its owner, permissions, extended attributes and last its mtime; what already is
/// right is not touched. Without root, owners and attributes that may not be set are noted under `path` and left out.
Status applyMetadata(int fd, const Metadata& metadata, const std::string& path, Notes& notes);
/// The same for a symlink, device or fifo that was just made under `name` in a directory that nobody else writes.
Status applyMetadataToNode(const Directory& directory, const std::string& name, const Metadata& metadata,
                           const std::string& path, Notes& notes);

}  // namespace deltahop
