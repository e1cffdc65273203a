#include "io/replacement_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/hex.h"

namespace deltahop {
namespace {

Result<std::string> randomName() {
  std::array<uint8_t, 8> random;
  if (::getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
    return systemError(errno, "draw a name");
  }
  return ".deltahop-" + toHex(random);
}

}  // namespace

Result<ReplacementFile> ReplacementFile::create(const std::string& path) {
  std::string resolved = path;
  if (char* real = ::realpath(path.c_str(), nullptr); real != nullptr) {
    resolved = real;
    ::free(real);
  }
  const size_t slash = resolved.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : slash == 0 ? "/" : resolved.substr(0, slash);
  ReplacementFile made;
  made.name_ = slash == std::string::npos ? resolved : resolved.substr(slash + 1);
  if (made.name_.empty() || made.name_ == "." || made.name_ == "..") {
    return Error{Code::kInvalidArgument, "not the name of a file: " + path};
  }
  DH_TRY(made.directory_, File::open(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY));
  struct stat status;
  if (::fstatat(made.directory_.fd(), made.name_.c_str(), &status, 0) == 0 && !S_ISREG(status.st_mode)) {
    return Error{Code::kUnsupported, "not a regular file: " + path};
  }
  auto nameless = File::open(made.directory_.fd(), ".", O_TMPFILE | O_RDWR, 0600);
  if (nameless.ok()) {
    made.file_ = std::move(nameless).value();
    return made;
  }
  if (nameless.error().sysErrno != EOPNOTSUPP && nameless.error().sysErrno != EISDIR) return nameless.error();
  DH_TRY(std::string name, randomName());
  DH_TRY(made.file_, File::open(made.directory_.fd(), name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW, 0600));
  made.privateName_ = std::move(name);
  return made;
}

ReplacementFile::ReplacementFile(ReplacementFile&& other) noexcept
    : directory_(std::move(other.directory_)),
      file_(std::move(other.file_)),
      name_(std::move(other.name_)),
      privateName_(std::exchange(other.privateName_, {})) {}

ReplacementFile::~ReplacementFile() {
  if (!privateName_.empty()) ::unlinkat(directory_.fd(), privateName_.c_str(), 0);
}

mode_t ReplacementFile::modeOfReplaced(mode_t otherwise) const {
  struct stat status;
  if (::fstatat(directory_.fd(), name_.c_str(), &status, 0) != 0) return otherwise;
  return status.st_mode & 07777;
}

// linkat never replaces, rename does: a nameless file needs a private name first.
Status ReplacementFile::giveName() {
  if (!privateName_.empty()) return {};
  DH_TRY(std::string name, randomName());
  const std::string source = "/proc/self/fd/" + std::to_string(file_.fd());
  if (::linkat(AT_FDCWD, source.c_str(), directory_.fd(), name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    return systemError(errno, "name the new file");
  }
  privateName_ = std::move(name);
  return {};
}

Status ReplacementFile::commit(mode_t mode) {
  if (::fchmod(file_.fd(), mode) != 0) return systemError(errno, "set the mode of the new file");
  DH_CHECK(file_.sync());
  DH_CHECK(giveName());
  if (::renameat(directory_.fd(), privateName_.c_str(), directory_.fd(), name_.c_str()) != 0) {
    return systemError(errno, "put the new file in place");
  }
  privateName_.clear();
  return directory_.sync();
}

}  // namespace deltahop
