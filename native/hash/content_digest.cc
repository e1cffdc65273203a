#include "hash/content_digest.h"

#include <algorithm>
#include <memory>

#include "io/file.h"

namespace deltahop {

const Digest& zeroSegmentDigest() {
  static const Digest digest = blake3(Bytes(kContentSegmentBytes));
  return digest;
}

void ContentHasher::endSegment(const Digest& digest) {
  root_.update(digest);
  segment_ = Blake3();
  segmentBytes_ = 0;
}

void ContentHasher::update(ByteSpan input) {
  size_ += input.size();
  while (!input.empty()) {
    const size_t taken = std::min(kContentSegmentBytes - segmentBytes_, input.size());
    segment_.update(input.first(taken));
    segmentBytes_ += taken;
    if (segmentBytes_ == kContentSegmentBytes) endSegment(segment_.finish());
    input = input.subspan(taken);
  }
}

void ContentHasher::updateSegment(const Digest& digest) {
  endSegment(digest);
  size_ += kContentSegmentBytes;
}

void ContentHasher::updateZeros(uint64_t count) {
  static constexpr std::array<uint8_t, 16384> kZeros{};
  while (count > 0) {
    if (segmentBytes_ == 0 && count >= kContentSegmentBytes) {
      endSegment(zeroSegmentDigest());
      size_ += kContentSegmentBytes;
      count -= kContentSegmentBytes;
      continue;
    }
    const uint64_t taken = std::min({count, uint64_t{kZeros.size()}, kContentSegmentBytes - segmentBytes_});
    update({kZeros.data(), taken});
    count -= taken;
  }
}

Digest ContentHasher::finish() {
  if (segmentBytes_ > 0) endSegment(segment_.finish());
  std::array<uint8_t, 8> size;
  for (size_t i = 0; i < 8; ++i) size[i] = static_cast<uint8_t>(size_ >> (8 * i));
  root_.update(size);
  return root_.finish();
}

Digest contentDigest(ByteSpan bytes) {
  ContentHasher hasher;
  hasher.update(bytes);
  return hasher.finish();
}

Result<Digest> contentDigest(const File& file, const std::function<bool(uint64_t)>& onProgress) {
  DH_TRY(const uint64_t fileBytes, file.size());
  if (fileBytes > kMaxFileBytes) return Error{Code::kLimit, "file larger than 64 TiB"};
  ContentHasher hasher;
  const size_t bufferBytes = std::min<uint64_t>(kContentSegmentBytes, std::max<uint64_t>(fileBytes, 1));
  const auto buffer = std::make_unique_for_overwrite<uint8_t[]>(bufferBytes);
  while (hasher.size() < fileBytes) {
    DH_TRY(const Extent extent, file.nextExtent(hasher.size(), fileBytes));
    if (extent.isHole) {
      hasher.updateZeros(extent.length);
    } else {
      uint64_t left = extent.length;
      while (left > 0) {
        // Reads that end on segment borders hash straight from the buffer.
        const uint64_t toBorder = kContentSegmentBytes - hasher.size() % kContentSegmentBytes;
        const size_t wanted = std::min({left, toBorder, uint64_t{bufferBytes}});
        DH_TRY(const size_t got, file.readAt(hasher.size(), {buffer.get(), wanted}));
        if (got < wanted) return Error{Code::kChanged, "file became shorter while it was hashed"};
        hasher.update({buffer.get(), got});
        left -= got;
        if (onProgress && !onProgress(hasher.size())) return Error{Code::kCancelled, "hash a file"};
      }
    }
    if (onProgress && !onProgress(hasher.size())) return Error{Code::kCancelled, "hash a file"};
  }
  return hasher.finish();
}

}  // namespace deltahop
