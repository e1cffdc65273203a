// Delta instructions into self-contained, compressed blocks. FORMATS.md section 3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/bytes.h"
#include "base/result.h"
#include "codec/literal_stream.h"
#include "codec/section.h"
#include "match/matcher.h"

namespace deltahop {

/// Literals of one block, before compression.
inline constexpr size_t kMaxDeltaLiteralBytes = 256 * 1024;
/// Instructions of one block, before compression.
inline constexpr size_t kMaxDeltaOpsBytes = 32 * 1024;
/// No block is longer, compressed or not.
inline constexpr size_t kMaxDeltaBlockBytes = 300 * 1024;
inline constexpr int kDefaultZstdLevel = 3;

struct EncodeStatistics {
  uint64_t literalBytes = 0;
  uint64_t literalEncodedBytes = 0;
  uint64_t blockBytes = 0;  // all blocks, instructions included
};

/// A DeltaSink that merges neighbouring instructions and gives a block whenever one is full.
class DeltaEncoder : public DeltaSink {
 public:
  using BlockSink = std::function<Status(Bytes)>;

  /// With `stream` the literals are pieces of it, so that no block can be read without those before it; it must outlive
  /// the encoder.
  DeltaEncoder(BlockSink onBlock, int zstdLevel = kDefaultZstdLevel, LiteralStreamWriter* stream = nullptr);
  ~DeltaEncoder() override;

  Status copy(uint64_t basisOffset, uint64_t length) override;
  Status literal(ByteSpan data) override;
  Status zeros(uint64_t length) override;
  /// Gives what is left. The encoder can then be used for the next target.
  Status finish();

  const EncodeStatistics& statistics() const { return statistics_; }

 private:
  // The numbers are those of the format.
  enum class Op : uint8_t { kNone = 0, kLiteral = 1, kZeros = 2, kCopy = 3 };
  Status startOp(Op op);
  void flushOp();
  Status flushBlock();

  SectionWriter sections_;
  BlockSink onBlock_;
  LiteralStreamWriter* const stream_;
  Bytes ops_;
  Bytes literals_;
  Op op_ = Op::kNone;
  uint64_t opLength_ = 0;
  uint64_t copyOffset_ = 0;
  uint64_t copyExpected_ = 0;  // where a copy that follows on the last one of this block would start
  uint64_t blockTargetBytes_ = 0;
  EncodeStatistics statistics_;
};

}  // namespace deltahop
