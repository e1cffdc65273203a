// The delta of a single file as a stream of its own: header, blocks, end mark. FORMATS.md section 3.
#pragma once

#include <cstdint>
#include <functional>

#include "base/bytes.h"
#include "base/result.h"
#include "hash/blake3.h"

namespace deltahop {

/// Appends the header of a delta against a basis of this many bytes.
void writeDeltaHeader(Bytes& output, uint64_t basisBytes);
/// Appends one block of a DeltaEncoder.
void writeDeltaBlock(Bytes& output, ByteSpan block);
/// Appends the end mark.
void writeDeltaEnd(Bytes& output, uint64_t targetBytes, const Digest& contentDigest);

/// Takes the parts of a delta stream in order.
class DeltaStreamSink {
 public:
  virtual ~DeltaStreamSink() = default;
  virtual Status onHeader(uint64_t basisBytes) = 0;
  virtual Status onBlock(ByteSpan block) = 0;
  virtual Status onEnd(uint64_t targetBytes, const Digest& contentDigest) = 0;
};

/// Cuts a delta stream of any split into its parts.
class DeltaStreamReader {
 public:
  explicit DeltaStreamReader(DeltaStreamSink& sink) : sink_(sink) {}

  /// kCorrupt, kLimit, kUnsupported, or the sink's error; bytes after the end are kCorrupt.
  Status feed(ByteSpan input);
  bool ended() const { return stage_ == Stage::kEnded; }
  /// Where the input ended: kTruncated unless ended().
  Status expectEnd() const;

 private:
  enum class Stage : uint8_t { kHeader, kBlocks, kEnded };
  Result<bool> step();

  DeltaStreamSink& sink_;
  Stage stage_ = Stage::kHeader;
  Bytes pending_;
  size_t position_ = 0;
};

}  // namespace deltahop
