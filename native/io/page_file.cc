#include "io/page_file.h"

#include <algorithm>
#include <cstring>

namespace deltahop {
namespace {

constexpr size_t kChunkBytes = 32 << 10;
constexpr size_t kChunks = 32;

}  // namespace

Result<PageFile> PageFile::open(const File& file) {
  PageFile made;
  made.file_ = &file;
  DH_TRY(made.bytes_, file.size());
  made.chunks_.resize(kChunks);
  return made;
}

PageFile PageFile::again() const {
  PageFile made;
  made.file_ = file_;
  made.bytes_ = bytes_;
  made.chunks_.resize(kChunks);
  return made;
}

Result<bool> PageFile::isHole(uint64_t offset, uint64_t length) {
  DH_TRY(const Extent extent, extentAt(offset));
  return extent.isHole && extent.end() >= offset + length;
}

Result<Extent> PageFile::extentAt(uint64_t offset) {
  if (offset < extent_.offset || offset >= extent_.end()) {
    DH_TRY(extent_, file_->nextExtent(offset, bytes_));
  }
  return extent_;
}

Result<bool> PageFile::readRange(uint64_t offset, std::span<uint8_t> buffer) {
  if (offset > bytes_ || buffer.size() > bytes_ - offset) return Error{Code::kCorrupt, "a range beyond the file", 0};
  bool allHole = true;
  while (!buffer.empty()) {
    DH_TRY(const Extent extent, extentAt(offset));
    const size_t taken = std::min<uint64_t>(buffer.size(), extent.end() - offset);
    if (extent.isHole) {
      std::memset(buffer.data(), 0, taken);
    } else {
      allHole = false;
      DH_TRY(const size_t got, file_->readAt(offset, buffer.first(taken)));
      if (got < taken) return Error{Code::kChanged, "a file became shorter while it was read", 0};
    }
    buffer = buffer.subspan(taken);
    offset += taken;
  }
  return allHole;
}

Result<const uint8_t*> PageFile::page(uint64_t number) {
  const uint64_t chunkNumber = number * kPageBytes / kChunkBytes;
  Chunk& chunk = chunks_[chunkNumber % kChunks];
  if (chunk.number != chunkNumber) {
    if (number >= pages()) return Error{Code::kCorrupt, "a page beyond the file", 0};
    if (chunk.bytes == nullptr) chunk.bytes = std::make_unique_for_overwrite<uint8_t[]>(kChunkBytes);
    chunk.number = UINT64_MAX;
    const uint64_t offset = chunkNumber * kChunkBytes;
    const size_t wanted = std::min<uint64_t>(kChunkBytes, bytes_ - offset);
    DH_CHECK(readRange(offset, {chunk.bytes.get(), wanted}));
    chunk.number = chunkNumber;
  } else if (number >= pages()) {
    return Error{Code::kCorrupt, "a page beyond the file", 0};
  }
  return chunk.bytes.get() + number * kPageBytes % kChunkBytes;
}

Result<const uint8_t*> PageFile::pageAt(uint64_t offset, std::span<uint8_t, kPageBytes> scratch) {
  const size_t within = offset % kPageBytes;
  if (within == 0) return page(offset / kPageBytes);
  DH_TRY(const uint8_t* first, page(offset / kPageBytes));
  std::memcpy(scratch.data(), first + within, kPageBytes - within);
  DH_TRY(const uint8_t* second, page(offset / kPageBytes + 1));
  std::memcpy(scratch.data() + kPageBytes - within, second, within);
  return scratch.data();
}

}  // namespace deltahop
