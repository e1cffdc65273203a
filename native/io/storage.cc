#include "io/storage.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>

namespace deltahop {
namespace {

constexpr size_t kZeroPieceBytes = 64 << 10;

bool cannot(int sysErrno) {
  return sysErrno == EOPNOTSUPP || sysErrno == ENOSYS;
}

}  // namespace

Status FileStorage::punch(uint64_t offset, uint64_t length) {
  int result;
  do {
    result = ::fallocate(file_.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                         static_cast<off_t>(length));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return {};
  if (cannot(errno)) return Error{Code::kUnsupported, "punch a hole", errno};
  return systemError(errno, "punch a hole");
}

Status FileStorage::touch() {
  const struct timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
  if (::futimens(file_.fd(), times) != 0) return systemError(errno, "set the time");
  return {};
}

Status reserveSpace(File& file, uint64_t offset, uint64_t length) {
  int result;
  do {
    result = ::fallocate(file.fd(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(length));
  } while (result != 0 && errno == EINTR);
  if (result == 0 || cannot(errno)) return {};
  return systemError(errno, "set space aside");
}

Status cloneFile(const File& other, File& file) {
  int result;
  do {
    result = ::ioctl(file.fd(), FICLONE, other.fd());
  } while (result != 0 && errno == EINTR);
  if (result == 0) return {};
  // What file systems say that cannot, for these two files or at all.
  if (cannot(errno) || errno == ENOTTY || errno == EXDEV || errno == EINVAL || errno == EPERM) {
    return Error{Code::kUnsupported, "clone a file", errno};
  }
  return systemError(errno, "clone a file");
}

Status makeZeros(Storage& file, uint64_t offset, uint64_t length) {
  DH_TRY(const uint64_t fileBytes, file.size());
  if (offset >= fileBytes) return {};
  const uint64_t end = offset + std::min(length, fileBytes - offset);
  if (length >= kPunchBytes) {
    const Status punched = file.punch(offset, end - offset);
    if (punched.ok() || punched.error().code != Code::kUnsupported) return punched;
  }
  Bytes buffer;
  Bytes zeros;
  while (offset < end) {
    DH_TRY(const uint64_t hole, file.holeBytes(offset, fileBytes));
    if (hole > 0) {
      offset += hole;
      continue;
    }
    buffer.resize(std::min<uint64_t>(end - offset, kZeroPieceBytes));
    DH_TRY(const size_t got, file.readAt(offset, buffer));
    if (got == 0) return Error{Code::kChanged, "a file became shorter while it was patched"};
    if (!isZero(ByteSpan(buffer).first(got))) {
      zeros.resize(got);
      DH_CHECK(file.writeAt(offset, zeros));
    }
    offset += got;
  }
  return {};
}

}  // namespace deltahop
