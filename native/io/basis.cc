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

Result<Basis> Basis::make(std::vector<File> files, uint32_t blockBytes) {
  if (files.size() > kMaxBasisFiles) return Error{Code::kLimit, "too many files in one basis"};
  if (blockBytes == 0) return Error{Code::kInvalidArgument, "block size 0"};
  std::vector<uint64_t> fileBytes;
  for (const File& file : files) {
    DH_TRY(const uint64_t bytes, file.size());
    if (bytes > kMaxFileBytes) return Error{Code::kLimit, "file larger than 64 TiB"};
    fileBytes.push_back(bytes);
  }
  Basis basis;
  basis.files_ = std::move(files);
  basis.spans_ = basisLayout(fileBytes, blockBytes);
  basis.blockBytes_ = blockBytes;
  return basis;
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
    DH_TRY(const size_t got, files_[i].readAt(offset - span.start, buffer.first(wanted)));
    if (got < wanted) return Error{Code::kChanged, "a basis file became shorter"};
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
    DH_TRY(Extent extent, files_[i].nextExtent(offset - span.start, span.bytes));
    extent.offset += span.start;
    return extent;
  }
  return Error{Code::kInvalidArgument, "extent beyond the basis"};
}

}  // namespace deltahop
