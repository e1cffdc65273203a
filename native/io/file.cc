#include "io/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace deltahop {

File::File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

File::~File() {
  close();
}

void File::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Result<File> File::open(int dirFd, const std::string& path, int flags, mode_t mode) {
  int fd;
  do {
    fd = ::openat(dirFd, path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return systemError(errno, "open " + path);
  return File(fd);
}

Result<File> File::openRegular(const std::string& path) {
  DH_TRY(File file, open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
  DH_TRY(const struct stat status, file.stat());
  if (!S_ISREG(status.st_mode)) return Error{Code::kUnsupported, "not a regular file: " + path};
  return file;
}

Result<size_t> File::readAt(uint64_t offset, std::span<uint8_t> buffer) const {
  size_t done = 0;
  while (done < buffer.size()) {
    const ssize_t got = ::pread(fd_, buffer.data() + done, buffer.size() - done, static_cast<off_t>(offset + done));
    if (got < 0) {
      if (errno == EINTR) continue;
      return systemError(errno, "read");
    }
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

Status File::writeAt(uint64_t offset, ByteSpan data) {
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t put = ::pwrite(fd_, data.data() + done, data.size() - done, static_cast<off_t>(offset + done));
    if (put < 0) {
      if (errno == EINTR) continue;
      return systemError(errno, "write");
    }
    done += static_cast<size_t>(put);
  }
  return {};
}

Result<uint64_t> File::size() const {
  DH_TRY(const struct stat status, stat());
  return static_cast<uint64_t>(status.st_size);
}

Result<struct stat> File::stat() const {
  struct stat status;
  if (::fstat(fd_, &status) != 0) return systemError(errno, "stat");
  return status;
}

Status File::truncate(uint64_t size) {
  int result;
  do {
    result = ::ftruncate(fd_, static_cast<off_t>(size));
  } while (result != 0 && errno == EINTR);
  if (result != 0) return systemError(errno, "set the size");
  return {};
}

Status File::sync(bool dataOnly) {
  if ((dataOnly ? ::fdatasync(fd_) : ::fsync(fd_)) != 0) return systemError(errno, "sync");
  return {};
}

Result<uint64_t> File::holeBytes(uint64_t offset, uint64_t fileBytes) const {
  const off_t data = ::lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0) {
    // ENXIO: no data from here to the end (or the file became shorter, which the next read would show).
    if (errno == ENXIO) return fileBytes - offset;
    if (errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS) return 0;
    return systemError(errno, "find data");
  }
  return std::min(static_cast<uint64_t>(data), fileBytes) - offset;
}

Result<Extent> File::nextExtent(uint64_t offset, uint64_t fileBytes) const {
  DH_TRY(const uint64_t holeLength, holeBytes(offset, fileBytes));
  if (holeLength > 0) return Extent{offset, holeLength, true};
  const Extent rest{offset, fileBytes - offset, false};
  const off_t hole = ::lseek(fd_, static_cast<off_t>(offset), SEEK_HOLE);
  if (hole < 0) return rest;
  // A concurrent change could make the two answers disagree; then take the rest as data.
  if (static_cast<uint64_t>(hole) <= offset) return rest;
  return Extent{offset, std::min(static_cast<uint64_t>(hole), fileBytes) - offset, false};
}

bool isZero(ByteSpan data) {
  // Compared with itself moved by 16: memcmp runs at memory speed and stops at the first difference.
  if (data.size() < 16) return std::all_of(data.begin(), data.end(), [](uint8_t byte) { return byte == 0; });
  static constexpr uint8_t kZeros[16] = {};
  return std::memcmp(data.data(), kZeros, 16) == 0 && std::memcmp(data.data(), data.data() + 16, data.size() - 16) == 0;
}

}  // namespace deltahop
