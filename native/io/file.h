// An open file.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/bytes.h"
#include "base/result.h"

namespace deltahop {

/// A run of data or of hole.
struct Extent {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool isHole = false;
  uint64_t end() const { return offset + length; }
};

/// Owns a file descriptor. All access is by offset, so one File may be read from several threads.
class File {
 public:
  File() = default;
  /// Takes the descriptor over.
  explicit File(int fd) : fd_(fd) {}
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  /// openat(dirFd, path, flags | O_CLOEXEC, mode).
  static Result<File> open(int dirFd, const std::string& path, int flags, mode_t mode = 0);
  /// A regular file for reading, symbolic links followed; never waits on a fifo. kUnsupported if it is not a regular
  /// file.
  static Result<File> openRegular(const std::string& path);

  bool isOpen() const { return fd_ >= 0; }
  int fd() const { return fd_; }
  void close();

  /// Reads until the buffer is full or the file ends; the count says which.
  Result<size_t> readAt(uint64_t offset, std::span<uint8_t> buffer) const;
  /// Writes all of it.
  Status writeAt(uint64_t offset, ByteSpan data);
  Result<uint64_t> size() const;
  Result<struct stat> stat() const;
  Status truncate(uint64_t size);
  /// fdatasync where `dataOnly`, else fsync.
  Status sync(bool dataOnly = false);
  /// How long the hole is that starts at `offset`, which must be below `fileBytes`; cut at `fileBytes`. 0: data starts
  /// there. File systems without SEEK_DATA give all as data.
  Result<uint64_t> holeBytes(uint64_t offset, uint64_t fileBytes) const;
  /// The data or hole that starts there. Where data ends is dear to find: in a file whose room was reserved and which
  /// has not gone to its disk yet, the kernel looks at each of its pages. So not to be asked again and again within the
  /// same data.
  Result<Extent> nextExtent(uint64_t offset, uint64_t fileBytes) const;

 private:
  int fd_ = -1;
};

/// Whether all bytes are zero.
bool isZero(ByteSpan data);

}  // namespace deltahop
