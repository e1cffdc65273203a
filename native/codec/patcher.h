// Applies a delta to a basis.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"
#include "codec/delta_decoder.h"
#include "codec/page_decoder.h"
#include "hash/content_digest.h"
#include "hash/segment_digests.h"
#include "io/basis.h"
#include "io/file.h"

namespace deltahop {

/// Where a patched target goes, in order.
class PatchOutput {
 public:
  virtual ~PatchOutput() = default;
  virtual Status write(ByteSpan data) = 0;
  virtual Status zeros(uint64_t length) = 0;
  /// The same as write(), and where in the basis it comes from.
  virtual Status copied(uint64_t basisOffset, ByteSpan data) {
    (void)basisOffset;
    return write(data);
  }
  /// The same without the bytes: true where the target is the basis there and has them already, else nothing was done.
  virtual bool keep(uint64_t basisOffset, uint64_t length) {
    (void)basisOffset;
    (void)length;
    return false;
  }
  /// All was written: `size` bytes.
  virtual Status finish(uint64_t size) = 0;
};

/// A new, empty file: zeros (4 KiB and more, at the file's offsets) become holes.
class FileOutput : public PatchOutput {
 public:
  explicit FileOutput(File& file) : file_(file) {}
  Status write(ByteSpan data) override;
  Status zeros(uint64_t length) override;
  Status finish(uint64_t size) override;

 private:
  Status put(uint64_t offset, ByteSpan data);

  File& file_;
  uint64_t offset_ = 0;
  uint64_t fileBytes_ = 0;
};

struct PatchSummary {
  uint64_t size = 0;
  uint64_t matchedBytes = 0;
  uint64_t keptBytes = 0;     // of those, not read, as their digests were known
  uint64_t literalBytes = 0;  // of page blocks too: what was not copied as it was
  uint64_t zeroBytes = 0;
};

/// Makes one target from a basis and delta blocks, hashing as it goes. Nothing is waited for except the disk.
class Patcher : private DeltaSink {
 public:
  /// All must outlive the patcher. More than `maxTargetBytes` are refused (kLimit). With `literals` those of the blocks
  /// may be pieces of that stream.
  Patcher(const Basis& basis, PatchOutput& output, uint64_t maxTargetBytes = kMaxFileBytes,
          LiteralStreamReader* literals = nullptr);

  /// The digests of the segments of the basis' first file, so that what is kept of it need not be read; null: unknown.
  /// They must outlive the patcher.
  void know(SegmentDigests* segments) { segments_ = segments; }
  Status apply(ByteSpan block);
  /// Applies a block of pages (codec/page_decoder.h).
  Status applyPages(ByteSpan block);
  /// The target is the basis.
  Status copyAll() { return basis_.size() == 0 ? Status() : copy(0, basis_.size()); }
  /// Appends bytes that came in another way.
  Status append(ByteSpan data);
  /// Bytes of the target made so far.
  uint64_t doneBytes() const { return hasher_.size(); }
  /// kMismatch if the size or the content digest is not the expected one.
  Result<PatchSummary> finish(uint64_t size, const Digest& expected);

 private:
  Status copy(uint64_t basisOffset, uint64_t length) override;
  Status literal(ByteSpan data) override;
  Status zeros(uint64_t length) override;
  bool keepSegment(uint64_t basisOffset, uint64_t length);

  const Basis& basis_;
  PatchOutput& output_;
  DeltaDecoder decoder_;
  PageDecoder pages_;
  ContentHasher hasher_;
  SegmentDigests* segments_ = nullptr;
  Bytes buffer_;
  PatchSummary summary_;
};

}  // namespace deltahop
