// The content digest of a file: FORMATS.md section 1.
#pragma once

#include <cstdint>
#include <functional>

#include "base/bytes.h"
#include "base/result.h"
#include "hash/blake3.h"

namespace deltahop {

class File;

/// Bytes that are hashed as one unit of a content digest.
inline constexpr size_t kContentSegmentBytes = 1 << 20;

/// No file larger than this (64 TiB) is taken: it bounds what an announced size can make anybody do.
inline constexpr uint64_t kMaxFileBytes = uint64_t{1} << 46;

/// Incremental content digest. Zeros given by count cost nothing per full segment.
class ContentHasher {
 public:
  void update(ByteSpan input);
  void updateZeros(uint64_t count);
  /// A full segment of which the digest (its plain BLAKE3) is known; only where a segment begins.
  void updateSegment(const Digest& digest);
  /// The digest of all so far; call once, last.
  Digest finish();
  /// Bytes so far.
  uint64_t size() const { return size_; }

 private:
  void endSegment(const Digest& digest);

  Blake3 root_;
  Blake3 segment_;
  size_t segmentBytes_ = 0;
  uint64_t size_ = 0;
};

/// The digest of a full segment of zeros.
const Digest& zeroSegmentDigest();

/// The content digest of bytes in memory.
Digest contentDigest(ByteSpan bytes);

/// The content digest of a file, from offset 0 to the size it has now; holes are not read. `onProgress`, if given, is
/// told the bytes done after each read; returning false ends with kCancelled. Errors: kIo, kChanged if the file shrank.
Result<Digest> contentDigest(const File& file, const std::function<bool(uint64_t)>& onProgress = {});

}  // namespace deltahop
