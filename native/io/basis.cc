#include "io/basis.h"

#include <algorithm>
#include <cstring>

#include "hash/content_digest.h"

namespace deltahop {

std::vector<BasisSpan> basisLayout(std::span<const uint64_t> fileBytes, uint64_t blockBytes) {
  std::vector<BasisSpan> spans;
  spans.reserve(fileBytes.size());
  uint64_t end = 0;
  for (const uint64_t bytes : fileBytes) {
    const uint64_t start = (end + blockBytes - 1) / blockBytes * blockBytes;
    spans.push_back({start, bytes});
    end = start + bytes;
  }
  return spans;
}

Result<Basis> Basis::make(std::vector<File> files, uint32_t blockBytes, Overlay overlay) {
  if (files.size() > kMaxBasisFiles) return Error{Code::kLimit, "too many files in one basis"};
  if (blockBytes == 0) return Error{Code::kInvalidArgument, "block size 0"};
  std::vector<uint64_t> fileBytes;
  for (const File& file : files) {
    DH_TRY(const uint64_t bytes, file.size());
    if (bytes > kMaxFileBytes) return Error{Code::kLimit, "file larger than 64 TiB"};
    fileBytes.push_back(bytes);
  }
  Basis basis;
  if (!overlay.extents.empty()) {
    if (fileBytes.empty()) return Error{Code::kInvalidArgument, "an overlay over no file"};
    basis.firstBytes_ = fileBytes[0];
    fileBytes[0] = std::max(fileBytes[0], overlay.end());
  }
  basis.files_ = std::move(files);
  basis.overlay_ = std::move(overlay);
  basis.spans_ = basisLayout(fileBytes, blockBytes);
  basis.blockBytes_ = blockBytes;
  return basis;
}

Status Basis::freezeFirst(File clone) {
  if (files_.empty() || !overlay_.extents.empty()) return Error{Code::kUnsupported, "no single first file"};
  DH_CHECK(cloneFile(files_.front(), clone));
  DH_TRY(const uint64_t bytes, clone.size());
  if (bytes != spans_.front().bytes) return Error{Code::kChanged, "a basis file changed its size"};
  files_.front() = std::move(clone);
  return {};
}

Status Basis::readAt(uint64_t offset, std::span<uint8_t> buffer) const {
  if (offset > size() || buffer.size() > size() - offset) return Error{Code::kCorrupt, "copy from outside the basis"};
  for (size_t i = 0; i < spans_.size() && !buffer.empty(); ++i) {
    const BasisSpan& span = spans_[i];
    if (offset < span.start) {
      const size_t gap = std::min<uint64_t>(span.start - offset, buffer.size());
      std::memset(buffer.data(), 0, gap);
      buffer = buffer.subspan(gap);
      offset += gap;
    }
    if (buffer.empty() || offset >= span.end()) continue;
    const size_t wanted = std::min<uint64_t>(span.end() - offset, buffer.size());
    if (i == 0 && !overlay_.extents.empty()) {
      DH_CHECK(readFirst(offset, buffer.first(wanted)));
    } else {
      DH_TRY(const size_t got, files_[i].readAt(offset - span.start, buffer.first(wanted)));
      if (got < wanted) return Error{Code::kChanged, "a basis file became shorter"};
    }
    buffer = buffer.subspan(wanted);
    offset += wanted;
  }
  return {};
}

Result<Extent> Basis::nextExtent(uint64_t offset) const {
  for (size_t i = 0; i < spans_.size(); ++i) {
    const BasisSpan& span = spans_[i];
    if (offset >= span.end()) continue;
    if (offset < span.start) return Extent{offset, span.start - offset, true};
    if (i == 0 && !overlay_.extents.empty()) {
      const size_t next = extentAt(offset);
      uint64_t stop = span.bytes;
      if (next < overlay_.extents.size()) {
        const PatchExtent& over = overlay_.extents[next];
        if (over.offset <= offset) return Extent{offset, over.end() - offset, over.isZeros()};
        stop = over.offset;
      }
      if (offset >= firstBytes_) return Extent{offset, stop - offset, true};
      return files_[0].nextExtent(offset, std::min(stop, firstBytes_));
    }
    DH_TRY(Extent extent, files_[i].nextExtent(offset - span.start, span.bytes));
    extent.offset += span.start;
    return extent;
  }
  return Error{Code::kInvalidArgument, "extent beyond the basis"};
}

// The first extent of the overlay that ends behind `offset`.
size_t Basis::extentAt(uint64_t offset) const {
  const auto at = std::upper_bound(overlay_.extents.begin(), overlay_.extents.end(), offset,
                                   [](uint64_t value, const PatchExtent& extent) { return value < extent.end(); });
  return static_cast<size_t>(at - overlay_.extents.begin());
}

Status Basis::readFirst(uint64_t offset, std::span<uint8_t> buffer) const {
  for (size_t next = extentAt(offset); !buffer.empty();) {
    const bool isOver = next < overlay_.extents.size() && overlay_.extents[next].offset <= offset;
    const uint64_t stop = next >= overlay_.extents.size() ? UINT64_MAX
                          : isOver                        ? overlay_.extents[next].end()
                                                          : overlay_.extents[next].offset;
    const auto part = buffer.first(std::min<uint64_t>(stop - offset, buffer.size()));
    if (!isOver) {
      // Between the end of the file and what the overlay put behind it, there is nothing.
      const size_t there = offset >= firstBytes_ ? 0 : std::min<uint64_t>(firstBytes_ - offset, part.size());
      DH_TRY(const size_t got, files_[0].readAt(offset, part.first(there)));
      if (got < there) return Error{Code::kChanged, "a basis file became shorter"};
      std::memset(part.data() + there, 0, part.size() - there);
    } else if (overlay_.extents[next].isZeros()) {
      std::memset(part.data(), 0, part.size());
    } else {
      const PatchExtent& over = overlay_.extents[next];
      DH_TRY(const size_t got, overlay_.journal.readAt(over.journalOffset + (offset - over.offset), part));
      if (got < part.size()) return Error{Code::kChanged, "a patch journal became shorter"};
    }
    offset += part.size();
    buffer = buffer.subspan(part.size());
    if (isOver && offset == stop) ++next;
  }
  return {};
}

}  // namespace deltahop
