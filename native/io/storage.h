// A file as whoever changes it in place sees it: an interface, so that tests can stop a change after any step and lose
// what was not yet on stable storage.
#pragma once

#include <cstdint>
#include <span>

#include "base/bytes.h"
#include "base/result.h"
#include "io/file.h"

namespace deltahop {

/// Random access to one file. Errors are those of the system calls behind it.
class Storage {
 public:
  virtual ~Storage() = default;
  /// Reads until the buffer is full or the file ends; the count says which.
  virtual Result<size_t> readAt(uint64_t offset, std::span<uint8_t> buffer) const = 0;
  virtual Result<uint64_t> size() const = 0;
  /// How long the hole is at `offset`, which is below `fileBytes`; 0: data.
  virtual Result<uint64_t> holeBytes(uint64_t offset, uint64_t fileBytes) const = 0;
  virtual Status writeAt(uint64_t offset, ByteSpan data) = 0;
  /// Makes a range a hole; the size stays. kUnsupported where the file system cannot.
  virtual Status punch(uint64_t offset, uint64_t length) = 0;
  virtual Status truncate(uint64_t size) = 0;
  /// Content and size are on stable storage.
  virtual Status sync() = 0;
  /// Its mtime is now.
  virtual Status touch() = 0;
};

/// A File as Storage; the File must outlive it.
class FileStorage final : public Storage {
 public:
  explicit FileStorage(File& file) : file_(file) {}
  Result<size_t> readAt(uint64_t offset, std::span<uint8_t> buffer) const override {
    return file_.readAt(offset, buffer);
  }
  Result<uint64_t> size() const override { return file_.size(); }
  Result<uint64_t> holeBytes(uint64_t offset, uint64_t fileBytes) const override {
    return file_.holeBytes(offset, fileBytes);
  }
  Status writeAt(uint64_t offset, ByteSpan data) override { return file_.writeAt(offset, data); }
  Status punch(uint64_t offset, uint64_t length) override;
  Status truncate(uint64_t size) override { return file_.truncate(size); }
  Status sync() override { return file_.sync(true); }
  Status touch() override;

 private:
  File& file_;
};

/// Space is set aside for a range that holes may be in; content and size stay. kNoSpace; nothing is done where the file
/// system cannot.
Status reserveSpace(File& file, uint64_t offset, uint64_t length);

/// `file` becomes a copy of `other` that shares its blocks. kUnsupported where the file system cannot, or between two
/// of them.
Status cloneFile(const File& other, File& file);

/// A run of zeros of at least this length becomes a hole; a shorter one is written, as punching costs 0.1 ms a time.
inline constexpr uint64_t kPunchBytes = 64 << 10;

/// Makes a range zeros where the file may hold something else; beyond the file's end nothing is done. What is zero
/// already is not written.
Status makeZeros(Storage& file, uint64_t offset, uint64_t length);

}  // namespace deltahop
