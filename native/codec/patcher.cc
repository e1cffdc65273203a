#include "codec/patcher.h"

#include <algorithm>

namespace deltahop {
namespace {

constexpr size_t kCopyAtOnceBytes = 256 * 1024;
constexpr size_t kHoleBytes = 4096;

}  // namespace

Status FileOutput::write(ByteSpan data) {
  // Pages of zeros are left out (the file is new: what is not written is zero), and so is a part of a page at either
  // end; what lies between goes out in one piece.
  size_t unwritten = 0;
  for (size_t at = 0; at < data.size();) {
    const size_t stop = std::min<size_t>(at + kHoleBytes - (offset_ + at) % kHoleBytes, data.size());
    if (isZero(data.subspan(at, stop - at))) {
      if (at > unwritten) DH_CHECK(put(offset_ + unwritten, data.subspan(unwritten, at - unwritten)));
      unwritten = stop;
    }
    at = stop;
  }
  if (unwritten < data.size()) DH_CHECK(put(offset_ + unwritten, data.subspan(unwritten)));
  offset_ += data.size();
  return {};
}

Status FileOutput::zeros(uint64_t length) {
  offset_ += length;
  return {};
}

Status FileOutput::put(uint64_t offset, ByteSpan data) {
  fileBytes_ = offset + data.size();
  return file_.writeAt(offset, data);
}

Status FileOutput::finish(uint64_t size) {
  return size == fileBytes_ ? Status() : file_.truncate(size);
}

Patcher::Patcher(const Basis& basis, PatchOutput& output, uint64_t maxTargetBytes, LiteralStreamReader* literals)
    : basis_(basis),
      output_(output),
      decoder_(basis.size(), std::min(maxTargetBytes, kMaxFileBytes), literals),
      pages_(basis, std::min(maxTargetBytes, kMaxFileBytes)) {}

Status Patcher::apply(ByteSpan block) {
  return decoder_.decode(block, *this);
}

Status Patcher::applyPages(ByteSpan block) {
  return pages_.decode(block, *this);
}

Status Patcher::append(ByteSpan data) {
  return literal(data);
}

Status Patcher::copy(uint64_t basisOffset, uint64_t length) {
  summary_.matchedBytes += length;
  if (buffer_.size() < std::min<uint64_t>(length, kCopyAtOnceBytes)) {
    buffer_.resize(std::min<uint64_t>(length, kCopyAtOnceBytes));
  }
  while (length > 0) {
    if (keepSegment(basisOffset, length)) {
      basisOffset += kContentSegmentBytes;
      length -= kContentSegmentBytes;
      continue;
    }
    // Up to the next segment, which may be one to keep.
    const uint64_t toBorder = kContentSegmentBytes - hasher_.size() % kContentSegmentBytes;
    const std::span<uint8_t> part(buffer_.data(), std::min<uint64_t>({length, buffer_.size(), toBorder}));
    DH_CHECK(basis_.readAt(basisOffset, part));
    hasher_.update(part);
    DH_CHECK(output_.copied(basisOffset, part));
    basisOffset += part.size();
    length -= part.size();
  }
  return {};
}

// A segment that stays where it is, if its digest is known.
bool Patcher::keepSegment(uint64_t basisOffset, uint64_t length) {
  const uint64_t offset = hasher_.size();
  if (segments_ == nullptr || basisOffset != offset || offset % kContentSegmentBytes != 0) return false;
  if (length < kContentSegmentBytes) return false;
  const std::optional<Digest> digest = segments_->at(offset / kContentSegmentBytes);
  if (!digest.has_value() || !output_.keep(basisOffset, kContentSegmentBytes)) return false;
  hasher_.updateSegment(*digest);
  summary_.keptBytes += kContentSegmentBytes;
  return true;
}

Status Patcher::literal(ByteSpan data) {
  summary_.literalBytes += data.size();
  hasher_.update(data);
  return output_.write(data);
}

Status Patcher::zeros(uint64_t length) {
  summary_.zeroBytes += length;
  hasher_.updateZeros(length);
  return output_.zeros(length);
}

Result<PatchSummary> Patcher::finish(uint64_t size, const Digest& expected) {
  summary_.size = hasher_.size();
  if (summary_.size != size) return Error{Code::kMismatch, "the patched target has another size than announced"};
  if (hasher_.finish() != expected) {
    return Error{Code::kMismatch, "the patched target has another digest than announced"};
  }
  DH_CHECK(output_.finish(size));
  return summary_;
}

}  // namespace deltahop
