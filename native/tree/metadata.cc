#include "tree/metadata.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace deltahop {
namespace {

#ifndef SYS_listxattrat
#define SYS_listxattrat 465  // Linux 6.13, younger than the C library's headers
#endif

// One way to name an entry for the *xattr calls: a descriptor, or a name in a held directory. The second goes through
// the descriptor's magic link, which is as safe as an *at call, but a walk through /proc. Most entries have no
// attributes: where the kernel can list at a directory, that is all there is to do for them.
class XattrTarget {
 public:
  explicit XattrTarget(int fd) : fd_(fd) {}
  XattrTarget(const Directory& directory, const std::string& name) : fd_(directory.fd()), name_(&name) {}

  ssize_t list(char* buffer, size_t size) const {
    if (name_ == nullptr) return ::flistxattr(fd_, buffer, size);
    const long length = ::syscall(SYS_listxattrat, fd_, name_->c_str(), AT_SYMLINK_NOFOLLOW, buffer, size);
    // EPERM is what filters of system calls say of one that they do not know.
    if (length >= 0 || (errno != ENOSYS && errno != EPERM)) return length;
    return ::llistxattr(path().c_str(), buffer, size);
  }
  ssize_t get(const char* name, char* buffer, size_t size) const {
    return name_ == nullptr ? ::fgetxattr(fd_, name, buffer, size) : ::lgetxattr(path().c_str(), name, buffer, size);
  }
  int set(const char* name, const std::string& value) const {
    return name_ == nullptr ? ::fsetxattr(fd_, name, value.data(), value.size(), 0)
                            : ::lsetxattr(path().c_str(), name, value.data(), value.size(), 0);
  }
  int remove(const char* name) const {
    return name_ == nullptr ? ::fremovexattr(fd_, name) : ::lremovexattr(path().c_str(), name);
  }

 private:
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_) + "/" + *name_; }

  int fd_;
  const std::string* name_ = nullptr;
};

bool isUnsupported(int sysErrno) {
  return sysErrno == ENOTSUP || sysErrno == EOPNOTSUPP || sysErrno == ENOSYS;
}

Result<XattrList> readAll(const XattrTarget& target, const std::string& what, const std::vector<std::string>& exclude) {
  XattrList xattrs;
  char first[1024];
  std::string names;
  ssize_t length = target.list(first, sizeof first);
  if (length == 0) return xattrs;
  if (length > 0) {
    names.assign(first, static_cast<size_t>(length));
  } else if (errno == ERANGE) {
    names.resize(64 << 10);  // XATTR_LIST_MAX
    length = target.list(names.data(), names.size());
    if (length > 0) names.resize(static_cast<size_t>(length));
  }
  if (length < 0) {
    if (isUnsupported(errno)) return xattrs;
    return systemError(errno, "list extended attributes of " + what);
  }
  std::string buffer(kMaxXattrValueBytes, '\0');
  for (size_t at = 0; at < names.size();) {
    const std::string name(names.c_str() + at);
    at += name.size() + 1;
    if (std::find(exclude.begin(), exclude.end(), name) != exclude.end()) continue;
    const ssize_t got = target.get(name.c_str(), buffer.data(), buffer.size());
    if (got < 0) {
      // Removed since it was listed; or listed but not ours to read (trusted.* without root is not even listed).
      if (errno == ENODATA || errno == EPERM || errno == EACCES || isUnsupported(errno)) continue;
      return systemError(errno, "read extended attribute " + name + " of " + what);
    }
    xattrs.push_back(Xattr{name, buffer.substr(0, static_cast<size_t>(got))});
  }
  std::sort(xattrs.begin(), xattrs.end(), [](const Xattr& a, const Xattr& b) { return a.name < b.name; });
  return xattrs;
}

Status applyXattrs(const XattrTarget& target, const XattrList& wanted, const std::string& path, Notes& notes) {
  DH_TRY(const XattrList present, readAll(target, path, {}));
  if (present == wanted) return {};
  for (const Xattr& xattr : present) {
    const bool keep =
        std::any_of(wanted.begin(), wanted.end(), [&](const Xattr& other) { return other.name == xattr.name; });
    if (keep || target.remove(xattr.name.c_str()) == 0 || errno == ENODATA) continue;
    if (errno != EPERM && errno != EACCES && !isUnsupported(errno)) {
      return systemError(errno, "remove extended attribute " + xattr.name + " of " + path);
    }
    notes.add(path + ": extended attribute " + xattr.name + " could not be removed");
  }
  for (const Xattr& xattr : wanted) {
    if (std::find(present.begin(), present.end(), xattr) != present.end()) continue;
    if (target.set(xattr.name.c_str(), xattr.value) == 0) continue;
    if (errno != EPERM && errno != EACCES && !isUnsupported(errno)) {
      return systemError(errno, "set extended attribute " + xattr.name + " of " + path);
    }
    notes.add(path + ": extended attribute " + xattr.name + " could not be set");
  }
  return {};
}

bool sameOwner(const struct stat& status, const Metadata& metadata) {
  return status.st_uid == metadata.uid && status.st_gid == metadata.gid;
}

Status ownerFailed(int sysErrno, const std::string& path, Notes& notes) {
  if (sysErrno != EPERM && sysErrno != EINVAL) return systemError(sysErrno, "change owner of " + path);
  notes.add(path + ": owner could not be set");
  return {};
}

}  // namespace

void Notes::add(std::string note) {
  if (notes_.size() < kMaxNotes) {
    notes_.push_back(std::move(note));
  } else {
    ++more_;
  }
}

std::vector<std::string> Notes::take() {
  if (more_ > 0) notes_.push_back(std::to_string(more_) + " more notes");
  more_ = 0;
  return std::move(notes_);
}

Result<XattrList> readXattrs(const Directory& directory, const std::string& name,
                             const std::vector<std::string>& exclude) {
  if (!isSafeName(name)) return Error{Code::kUnsafePath, "name '" + name + "'", 0};
  return readAll(XattrTarget(directory, name), name, exclude);
}

Result<XattrList> readOwnXattrs(const Directory& directory, const std::vector<std::string>& exclude) {
  return readAll(XattrTarget(directory.fd()), "directory", exclude);
}

Metadata metadataOf(const Tree& tree, uint32_t index) {
  const Entry entry = tree.entry(index);
  const Attributes& attributes = tree.attributes(index);
  return Metadata{attributes.mode,    attributes.uid,         attributes.gid,
                  entry.mtimeSeconds, entry.mtimeNanoseconds, &tree.xattrs(index)};
}

Status applyMetadata(int fd, const Metadata& metadata, const std::string& path, Notes& notes) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return systemError(errno, "stat " + path);
  bool setsMode = (status.st_mode & 07777) != (metadata.mode & 07777);
  if (!sameOwner(status, metadata)) {
    if (::fchown(fd, metadata.uid, metadata.gid) != 0) DH_CHECK(ownerFailed(errno, path, notes));
    // A change of owner clears set-user-id bits and capabilities, so everything else comes after it.
    setsMode |= (metadata.mode & (S_ISUID | S_ISGID)) != 0;
  }
  if (setsMode && ::fchmod(fd, metadata.mode & 07777) != 0) return systemError(errno, "change mode of " + path);
  DH_CHECK(applyXattrs(XattrTarget(fd), *metadata.xattrs, path, notes));
  // None of these has changed the mtime.
  if (status.st_mtim.tv_sec != metadata.mtimeSeconds || status.st_mtim.tv_nsec != metadata.mtimeNanoseconds) {
    const struct timespec times[2] = {{0, UTIME_OMIT}, {metadata.mtimeSeconds, metadata.mtimeNanoseconds}};
    if (::futimens(fd, times) != 0) return systemError(errno, "set times of " + path);
  }
  return {};
}

Status applyMetadataToNode(const Directory& directory, const std::string& name, const Metadata& metadata,
                           const std::string& path, Notes& notes) {
  DH_TRY(const struct stat status, directory.status(name));
  if (!sameOwner(status, metadata) &&
      ::fchownat(directory.fd(), name.c_str(), metadata.uid, metadata.gid, AT_SYMLINK_NOFOLLOW) != 0) {
    DH_CHECK(ownerFailed(errno, path, notes));
  }
  if (!S_ISLNK(metadata.mode) &&
      ::fchmodat(directory.fd(), name.c_str(), metadata.mode & 07777, AT_SYMLINK_NOFOLLOW) != 0) {
    return systemError(errno, "change mode of " + path);
  }
  DH_CHECK(applyXattrs(XattrTarget(directory, name), *metadata.xattrs, path, notes));
  const struct timespec times[2] = {{0, UTIME_OMIT}, {metadata.mtimeSeconds, metadata.mtimeNanoseconds}};
  if (::utimensat(directory.fd(), name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
    return systemError(errno, "set times of " + path);
  }
  return {};
}

}  // namespace deltahop
