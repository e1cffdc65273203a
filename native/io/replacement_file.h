// A private file that takes another's place only when it is complete.
#pragma once

#include <sys/stat.h>

#include <string>

#include "base/result.h"
#include "io/file.h"

namespace deltahop {

/// Creates a nameless file (or, where the file system has none, one with a private name) in the directory of `path`.
/// Nothing is left of it unless commit() succeeds.
class ReplacementFile {
 public:
  /// `path` need not exist; a symbolic link there is followed, so that its target is what is replaced.
  static Result<ReplacementFile> create(const std::string& path);
  ReplacementFile(ReplacementFile&& other) noexcept;
  ReplacementFile& operator=(ReplacementFile&&) = delete;
  ~ReplacementFile();

  File& file() { return file_; }
  /// Gives it `mode` (permission bits), syncs it, puts it under its name in place of what is there, and syncs the
  /// directory.
  Status commit(mode_t mode);
  /// The permission bits of what it will replace, or `otherwise` if there is nothing.
  mode_t modeOfReplaced(mode_t otherwise) const;

 private:
  ReplacementFile() = default;
  Status giveName();

  File directory_;
  File file_;
  std::string name_;
  std::string privateName_;  // empty while the file has no name
};

}  // namespace deltahop
