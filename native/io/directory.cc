#include "io/directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>

namespace deltahop {
namespace {

constexpr int kDirectoryFlags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW;
// The kernel takes at most PATH_MAX bytes at once; deeper paths are walked in several steps.
constexpr size_t kMaxStepBytes = 3800;

Error nameError(std::string_view what, std::string_view name) {
  const int sysErrno = errno;
  std::string context(what);
  context += ' ';
  context += name;
  return systemError(sysErrno, std::move(context));
}

Error unsafeName(std::string_view name) {
  return Error{Code::kUnsafePath, "name '" + std::string(name) + "' is not allowed in a tree", 0};
}

// Kernels before 5.6, and seccomp filters that do not know openat2.
Result<File> walkComponents(int rootFd, std::string_view path) {
  File current;
  int at = rootFd;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string name(path.substr(0, slash));
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    File next(::openat(at, name.c_str(), kDirectoryFlags));
    if (!next.isOpen()) {
      // O_DIRECTORY|O_NOFOLLOW says ENOTDIR for a symlink.
      struct stat status{};
      const int sysErrno = errno;
      if (sysErrno == ENOTDIR && ::fstatat(at, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
          S_ISLNK(status.st_mode)) {
        return systemError(ELOOP, "open directory " + name);
      }
      return systemError(sysErrno, "open directory " + name);
    }
    current = std::move(next);
    at = current.fd();
  }
  return current;
}

Result<File> resolve(int rootFd, const std::string& path) {
  static std::atomic<bool> openat2Missing{false};
  if (!openat2Missing.load(std::memory_order_relaxed)) {
    struct open_how how{};
    // Without O_NOFOLLOW: RESOLVE_NO_SYMLINKS refuses the last component too, and says ELOOP rather than ENOTDIR.
    how.flags = static_cast<uint64_t>(kDirectoryFlags & ~O_NOFOLLOW);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
    for (int attempt = 0; attempt < 8; ++attempt) {
      File fd(static_cast<int>(::syscall(SYS_openat2, rootFd, path.c_str(), &how, sizeof how)));
      if (fd.isOpen()) return fd;
      if (errno == EAGAIN || errno == EINTR) continue;  // a rename raced with the walk
      break;
    }
    if (errno != ENOSYS && errno != EPERM) return nameError("open directory", path);
    openat2Missing.store(true, std::memory_order_relaxed);
  }
  return walkComponents(rootFd, path);
}

bool isSafePath(std::string_view path) {
  for (;;) {
    const size_t slash = path.find('/');
    if (!isSafeName(path.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
}

}  // namespace

bool isSafeName(std::string_view name) {
  if (name.empty() || name.size() > kMaxNameBytes || name == "." || name == "..") return false;
  return name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

Result<Directory> Directory::openRoot(const std::string& path) {
  if (path.find('\0') != std::string::npos) return Error{Code::kInvalidArgument, "path with a NUL byte", 0};
  File fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.isOpen()) return nameError("open directory", path);
  return Directory(std::move(fd));
}

Result<Directory> Directory::openOrMakeRoot(const std::string& path, mode_t mode) {
  if (path.find('\0') != std::string::npos) return Error{Code::kInvalidArgument, "path with a NUL byte", 0};
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return nameError("make directory", path);
  return openRoot(path);
}

Result<Directory> Directory::openBeneath(std::string_view relativePath) const {
  if (relativePath.empty()) {
    File copy(::fcntl(handle_.fd(), F_DUPFD_CLOEXEC, 3));
    if (!copy.isOpen()) return nameError("duplicate", "directory");
    return Directory(std::move(copy));
  }
  if (!isSafePath(relativePath)) return unsafeName(relativePath);
  File current;
  while (!relativePath.empty()) {
    size_t step = relativePath.size();
    if (step > kMaxStepBytes) step = relativePath.rfind('/', kMaxStepBytes);
    const std::string path(relativePath.substr(0, step));
    relativePath.remove_prefix(std::min(relativePath.size(), step + 1));
    DH_TRY(current, resolve(current.isOpen() ? current.fd() : handle_.fd(), path));
  }
  return Directory(std::move(current));
}

Result<Directory> Directory::openOrMakeBeneath(std::string_view relativePath, mode_t mode) const {
  if (relativePath.empty() || !isSafePath(relativePath)) return openBeneath(relativePath);
  DH_TRY(Directory current, openBeneath({}));
  while (!relativePath.empty()) {
    const size_t slash = relativePath.find('/');
    const std::string name(relativePath.substr(0, slash));
    const bool last = slash == std::string_view::npos;
    relativePath = last ? std::string_view() : relativePath.substr(slash + 1);
    const Status made = current.makeDirectory(name, last ? mode : 0777);
    if (!made.ok() && made.error().sysErrno != EEXIST) return made.error();
    DH_TRY(current, current.openBeneath(name));
  }
  return current;
}

Result<Directory::Found> Directory::lookUp(std::string_view relativePath) const {
  if (relativePath.empty()) return Found::kDirectory;
  if (!isSafePath(relativePath)) return unsafeName(relativePath);
  const size_t slash = relativePath.rfind('/');
  const std::string_view above = slash == std::string_view::npos ? std::string_view() : relativePath.substr(0, slash);
  const std::string name(slash == std::string_view::npos ? relativePath : relativePath.substr(slash + 1));
  const auto parent = openBeneath(above);
  if (!parent.ok()) {
    if (parent.error().code == Code::kNotFound) return Found::kNowhere;
    return parent.error();
  }
  const auto status = parent.value().status(name);
  if (!status.ok()) {
    if (status.error().code == Code::kNotFound) return Found::kNothing;
    return status.error();
  }
  return S_ISDIR(status.value().st_mode) ? Found::kDirectory : Found::kOther;
}

Result<std::vector<std::string>> Directory::names() const {
  // A descriptor of its own: a duplicate would share the read position with everybody else.
  const int fd = ::openat(handle_.fd(), ".", kDirectoryFlags);
  if (fd < 0) return nameError("open", "directory");
  struct Closer {
    void operator()(DIR* dir) const { ::closedir(dir); }
  };
  std::unique_ptr<DIR, Closer> dir(::fdopendir(fd));
  if (!dir) {
    ::close(fd);
    return nameError("list", "directory");
  }
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const struct dirent* entry = ::readdir(dir.get());
    if (entry == nullptr) {
      if (errno != 0) return nameError("list", "directory");
      break;
    }
    const std::string_view name(entry->d_name);
    if (name != "." && name != "..") names.emplace_back(name);
  }
  // std::string compares as unsigned bytes, which is the order of a manifest.
  std::sort(names.begin(), names.end());
  return names;
}

Result<struct stat> Directory::status(const std::string& name) const {
  if (!isSafeName(name)) return unsafeName(name);
  struct stat status{};
  if (::fstatat(handle_.fd(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return nameError("stat", name);
  return status;
}

Result<struct stat> Directory::ownStatus() const {
  struct stat status{};
  if (::fstat(handle_.fd(), &status) != 0) return nameError("stat", "directory");
  return status;
}

Result<File> Directory::open(const std::string& name, int flags, mode_t mode) const {
  if (!isSafeName(name)) return unsafeName(name);
  File fd(::openat(handle_.fd(), name.c_str(), flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, mode));
  if (!fd.isOpen()) return nameError("open", name);
  return fd;
}

Result<File> Directory::openRegular(const std::string& name) const {
  if (!isSafeName(name)) return unsafeName(name);
  File fd(::openat(handle_.fd(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.isOpen()) {
    if (errno == ELOOP || errno == ENXIO || errno == ENODEV) {
      return Error{Code::kChanged, name + " is no longer a regular file", 0};
    }
    return nameError("open", name);
  }
  struct stat status{};
  if (::fstat(fd.fd(), &status) != 0) return nameError("stat", name);
  if (!S_ISREG(status.st_mode)) return Error{Code::kChanged, name + " is no longer a regular file", 0};
  return fd;
}

Result<std::string> Directory::readLink(const std::string& name) const {
  if (!isSafeName(name)) return unsafeName(name);
  std::string target(4096, '\0');
  const ssize_t length = ::readlinkat(handle_.fd(), name.c_str(), target.data(), target.size());
  if (length < 0) return nameError("read link", name);
  target.resize(static_cast<size_t>(length));
  return target;
}

Status Directory::makeDirectory(const std::string& name, mode_t mode) const {
  if (!isSafeName(name)) return unsafeName(name);
  if (::mkdirat(handle_.fd(), name.c_str(), mode) != 0) return nameError("make directory", name);
  return {};
}

Status Directory::makeSymlink(const std::string& target, const std::string& name) const {
  if (!isSafeName(name)) return unsafeName(name);
  if (::symlinkat(target.c_str(), handle_.fd(), name.c_str()) != 0) return nameError("make symlink", name);
  return {};
}

Status Directory::makeNode(const std::string& name, mode_t mode, dev_t device) const {
  if (!isSafeName(name)) return unsafeName(name);
  if (::mknodat(handle_.fd(), name.c_str(), mode, device) != 0) return nameError("make node", name);
  return {};
}

Status Directory::link(const std::string& name, const Directory& to, const std::string& toName) const {
  if (!isSafeName(name)) return unsafeName(name);
  if (!isSafeName(toName)) return unsafeName(toName);
  if (::linkat(handle_.fd(), name.c_str(), to.fd(), toName.c_str(), 0) != 0) return nameError("link", name);
  return {};
}

Status Directory::rename(const std::string& name, const Directory& to, const std::string& toName) const {
  if (!isSafeName(name)) return unsafeName(name);
  if (!isSafeName(toName)) return unsafeName(toName);
  if (::renameat(handle_.fd(), name.c_str(), to.fd(), toName.c_str()) != 0) return nameError("rename to", toName);
  return {};
}

Status Directory::unlink(const std::string& name) const {
  if (!isSafeName(name)) return unsafeName(name);
  if (::unlinkat(handle_.fd(), name.c_str(), 0) != 0) return nameError("unlink", name);
  return {};
}

Status Directory::removeDirectory(const std::string& name) const {
  if (!isSafeName(name)) return unsafeName(name);
  if (::unlinkat(handle_.fd(), name.c_str(), AT_REMOVEDIR) != 0) return nameError("remove directory", name);
  return {};
}

Result<uint64_t> Directory::removeTree(const std::string& name) const {
  if (!isSafeName(name)) return unsafeName(name);
  // Iterative, a level at a time: a tree made deep on purpose must not exhaust the stack.
  struct Level {
    Directory directory;
    std::string name;  // in the level above
    std::vector<std::string> names;
  };
  uint64_t removed = 0;
  std::vector<Level> levels;
  std::string next = name;
  for (;;) {
    const Directory& here = levels.empty() ? *this : levels.back().directory;
    if (::unlinkat(here.fd(), next.c_str(), 0) == 0) {
      ++removed;
    } else if (errno == EISDIR || errno == EPERM) {
      File fd(::openat(here.fd(), next.c_str(), kDirectoryFlags));
      if (!fd.isOpen() && errno == EACCES) {
        // An owner without root may have locked itself out of its own directory.
        const File handle(::openat(here.fd(), next.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (handle.isOpen()) ::chmod(("/proc/self/fd/" + std::to_string(handle.fd())).c_str(), 0700);
        fd = File(::openat(here.fd(), next.c_str(), kDirectoryFlags));
      }
      if (!fd.isOpen()) return nameError("remove", next);
      ::fchmod(fd.fd(), 0700);
      Level level{Directory(std::move(fd)), next, {}};
      DH_TRY(level.names, level.directory.names());
      levels.push_back(std::move(level));
    } else if (errno != ENOENT) {
      return nameError("remove", next);
    }
    while (!levels.empty() && levels.back().names.empty()) {
      const std::string emptied = std::move(levels.back().name);
      levels.pop_back();
      const Directory& above = levels.empty() ? *this : levels.back().directory;
      DH_CHECK(above.removeDirectory(emptied));
      ++removed;
    }
    if (levels.empty()) return removed;
    next = std::move(levels.back().names.back());
    levels.back().names.pop_back();
  }
}

}  // namespace deltahop
