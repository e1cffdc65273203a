#include "open_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace probe {
namespace {

// "NNNNNNNNNN CCCCCCCC\n"
constexpr size_t kLineBytes = 20;
constexpr size_t kPatternBytes = 64 * 1024;
constexpr off_t kCounterAt = 4096;

std::array<char, 32> line(uint64_t number) {
  std::array<char, 32> text{};
  const auto check = static_cast<uint32_t>((number + 1) * 2654435761U);
  std::snprintf(text.data(), text.size(), "%010llu %08x\n", static_cast<unsigned long long>(number), check);
  return text;
}

char patternByte(size_t offset) {
  return static_cast<char>((offset * 131 + offset / 256) & 0xff);
}

}  // namespace

AppendLog::AppendLog(std::string path) : path_(std::move(path)) {
  fd_ = open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) abort();
}

void AppendLog::append() {
  const auto text = line(lines_);
  const ssize_t wrote = write(fd_, text.data(), kLineBytes);
  if (wrote == static_cast<ssize_t>(kLineBytes)) {
    ++lines_;
    return;
  }
  // A full disk is no fault of a migration: what there was no room for is taken back, and written at a later tick.
  const bool isFull = wrote >= 0 || errno == ENOSPC;
  if (!isFull || ftruncate(fd_, static_cast<off_t>(lines_ * kLineBytes)) != 0) ++errors_;
}

bool AppendLog::verify() const {
  const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  struct stat named{};
  struct stat held{};
  bool good = fstat(fd, &named) == 0 && fstat(fd_, &held) == 0 && named.st_ino == held.st_ino &&
              named.st_dev == held.st_dev && static_cast<uint64_t>(named.st_size) == lines_ * kLineBytes;
  std::array<char, kLineBytes> text{};
  for (uint64_t i = 0; good && i < lines_; ++i) {
    good = pread(fd, text.data(), kLineBytes, static_cast<off_t>(i * kLineBytes)) == kLineBytes &&
           std::memcmp(text.data(), line(i).data(), kLineBytes) == 0;
  }
  close(fd);
  return good;
}

DeletedFile::DeletedFile(const std::string& path) {
  fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd_ < 0) abort();
  std::vector<char> pattern(kPatternBytes);
  for (size_t i = 0; i < pattern.size(); ++i) pattern[i] = patternByte(i);
  if (write(fd_, pattern.data(), pattern.size()) != static_cast<ssize_t>(pattern.size())) abort();
  if (pwrite(fd_, &count_, sizeof count_, kCounterAt) != sizeof count_ || unlink(path.c_str()) != 0) abort();
}

void DeletedFile::raise() {
  const uint64_t next = count_ + 1;
  if (pwrite(fd_, &next, sizeof next, kCounterAt) == sizeof next) count_ = next;
}

bool DeletedFile::verify() const {
  std::vector<char> bytes(kPatternBytes + 1);
  if (pread(fd_, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(kPatternBytes)) return false;
  for (size_t i = 0; i < kPatternBytes; ++i) {
    const bool counter = i >= kCounterAt && i < kCounterAt + sizeof count_;
    if (!counter && bytes[i] != patternByte(i)) return false;
  }
  struct stat held{};
  return std::memcmp(bytes.data() + kCounterAt, &count_, sizeof count_) == 0 && fstat(fd_, &held) == 0 &&
         held.st_nlink == 0;
}

}  // namespace probe
