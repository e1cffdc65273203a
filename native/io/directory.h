// A held directory, the only way in which a tree is read or written: everything beneath it is reached by its
// descriptor, so no symlink and no rename by somebody else can lead an access outside.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "io/file.h"

namespace deltahop {

/// Longest name of one directory entry, in bytes (NAME_MAX of every Linux file system).
inline constexpr size_t kMaxNameBytes = 255;

/// True for what may be one component of a path: not empty, not "." or "..", without '/' and NUL, at most 255 bytes.
bool isSafeName(std::string_view name);

/// An open directory. Names given to its members must satisfy isSafeName() (kUnsafePath otherwise); none of the members
/// follows a symlink.
class Directory {
 public:
  Directory() = default;
  explicit Directory(File handle) : handle_(std::move(handle)) {}

  /// Opens the directory at `path`, which comes from our own caller: the one place where a path string is trusted.
  static Result<Directory> openRoot(const std::string& path);
  /// The same; makes the directory if only its last component is missing.
  static Result<Directory> openOrMakeRoot(const std::string& path, mode_t mode = 0700);

  /// Opens a directory some levels below; `relativePath` is made of safe names and '/', empty means this directory.
  /// kUnsafePath when a symlink, a magic link or ".." is on the way.
  Result<Directory> openBeneath(std::string_view relativePath) const;
  /// The same; directories that are missing on the way are made, the last of them with this mode.
  Result<Directory> openOrMakeBeneath(std::string_view relativePath, mode_t mode = 0700) const;

  /// What a path is, seen from here without following a symlink.
  enum class Found : uint8_t {
    kNowhere,  // not even the directory that would hold it is there
    kNothing,  // that directory is there, the last component is not
    kDirectory,
    kOther,  // a file, a symlink, a device...
  };
  /// Looks a path up; made of safe names like that of openBeneath(), empty for this directory.
  Result<Found> lookUp(std::string_view relativePath) const;

  int fd() const { return handle_.fd(); }
  bool isOpen() const { return handle_.isOpen(); }

  /// Names of all entries except "." and "..", sorted byte-wise.
  Result<std::vector<std::string>> names() const;
  /// lstat of an entry.
  Result<struct stat> status(const std::string& name) const;
  /// fstat of the directory itself.
  Result<struct stat> ownStatus() const;
  /// Opens an entry with `flags` (O_NOFOLLOW, O_CLOEXEC and O_NONBLOCK are added: a fifo must not block us).
  Result<File> open(const std::string& name, int flags, mode_t mode = 0) const;
  /// Opens a regular file for reading; kChanged if the name is something else by now.
  Result<File> openRegular(const std::string& name) const;
  Result<std::string> readLink(const std::string& name) const;

  Status makeDirectory(const std::string& name, mode_t mode) const;
  Status makeSymlink(const std::string& target, const std::string& name) const;
  Status makeNode(const std::string& name, mode_t mode, dev_t device) const;
  /// A further hard link to `name`, called `toName` in `to`.
  Status link(const std::string& name, const Directory& to, const std::string& toName) const;
  /// Renames over whatever non-directory `toName` is.
  Status rename(const std::string& name, const Directory& to, const std::string& toName) const;
  Status unlink(const std::string& name) const;
  Status removeDirectory(const std::string& name) const;
  /// Removes an entry with all that is beneath it; no error if it is not there. Returns how many entries went.
  Result<uint64_t> removeTree(const std::string& name) const;

 private:
  File handle_;
};

}  // namespace deltahop
