// A file read by pages, in an order that mostly goes on where it was.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "io/file.h"

namespace deltahop {

inline constexpr size_t kPageBytes = 4096;

/// Whole pages of a file of which holes are not read. Memory: 1 MiB. One thread.
class PageFile {
 public:
  /// The file must outlive this; its size is taken now.
  static Result<PageFile> open(const File& file);
  /// The same file once more, of the same size, for another thread.
  PageFile again() const;

  /// Number of whole pages.
  uint64_t pages() const { return bytes_ / kPageBytes; }
  uint64_t bytes() const { return bytes_; }
  /// The page's bytes, valid until the next call; kChanged if the file became shorter.
  Result<const uint8_t*> page(uint64_t number);
  /// As many bytes as a page has, from any offset on; put together in `scratch` where they lie in two pages.
  Result<const uint8_t*> pageAt(uint64_t offset, std::span<uint8_t, kPageBytes> scratch);
  /// Fills the buffer; the range must lie in the file. Says whether all of it is a hole.
  Result<bool> readRange(uint64_t offset, std::span<uint8_t> buffer);
  /// Whether all of a range that lies in the file is a hole.
  Result<bool> isHole(uint64_t offset, uint64_t length);
  /// The data or hole at `offset` (below bytes()).
  Result<Extent> extentAt(uint64_t offset);

 private:
  struct Chunk {
    uint64_t number = UINT64_MAX;
    std::unique_ptr<uint8_t[]> bytes;
  };

  const File* file_ = nullptr;
  uint64_t bytes_ = 0;
  Extent extent_;
  std::vector<Chunk> chunks_;
};

}  // namespace deltahop
