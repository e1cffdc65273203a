#include "codec/delta_encoder.h"

#include <algorithm>

#include "wire/writer.h"

namespace deltahop {
namespace {

// A block ends before it could outgrow its bounds: the longest instruction is a tag and an offset.
constexpr size_t kMaxOpBytes = 20;
// So that a receiver has something to do while a long copy is still being found.
constexpr uint64_t kMaxBlockTargetBytes = uint64_t{64} << 20;

uint64_t zigzag(int64_t value) {
  return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
}

}  // namespace

DeltaEncoder::DeltaEncoder(BlockSink onBlock, int zstdLevel, LiteralStreamWriter* stream)
    : sections_(zstdLevel), onBlock_(std::move(onBlock)), stream_(stream) {}

DeltaEncoder::~DeltaEncoder() = default;

// Puts the pending instruction into the block.
void DeltaEncoder::flushOp() {
  if (op_ == Op::kNone) return;
  Writer writer(ops_);
  writer.varint(opLength_ << 2 | static_cast<uint64_t>(op_));
  if (op_ == Op::kCopy) {
    writer.varint(zigzag(static_cast<int64_t>(copyOffset_ - copyExpected_)));
    copyExpected_ = copyOffset_ + opLength_;
  }
  op_ = Op::kNone;
}

Status DeltaEncoder::startOp(Op op) {
  flushOp();
  if (ops_.size() + kMaxOpBytes > kMaxDeltaOpsBytes || blockTargetBytes_ >= kMaxBlockTargetBytes) {
    DH_CHECK(flushBlock());
  }
  op_ = op;
  opLength_ = 0;
  return {};
}

Status DeltaEncoder::copy(uint64_t basisOffset, uint64_t length) {
  if (op_ != Op::kCopy || copyOffset_ + opLength_ != basisOffset || blockTargetBytes_ >= kMaxBlockTargetBytes) {
    DH_CHECK(startOp(Op::kCopy));
    copyOffset_ = basisOffset;
  }
  opLength_ += length;
  blockTargetBytes_ += length;
  return {};
}

Status DeltaEncoder::zeros(uint64_t length) {
  if (op_ != Op::kZeros) DH_CHECK(startOp(Op::kZeros));
  opLength_ += length;
  blockTargetBytes_ += length;
  return {};
}

Status DeltaEncoder::literal(ByteSpan data) {
  while (!data.empty()) {
    if (literals_.size() == kMaxDeltaLiteralBytes) {
      flushOp();
      DH_CHECK(flushBlock());
    }
    if (op_ != Op::kLiteral) DH_CHECK(startOp(Op::kLiteral));
    const size_t taken = std::min(data.size(), kMaxDeltaLiteralBytes - literals_.size());
    literals_.insert(literals_.end(), data.begin(), data.begin() + static_cast<ptrdiff_t>(taken));
    opLength_ += taken;
    blockTargetBytes_ += taken;
    data = data.subspan(taken);
  }
  return {};
}

Status DeltaEncoder::flushBlock() {
  if (ops_.empty()) return {};
  Bytes block;
  block.reserve(ops_.size() + literals_.size() + 32);
  DH_CHECK(sections_.write(block, ops_));
  DH_TRY(const size_t encoded,
         stream_ != nullptr ? sections_.write(block, literals_, *stream_) : sections_.write(block, literals_));
  statistics_.literalBytes += literals_.size();
  statistics_.literalEncodedBytes += encoded;
  statistics_.blockBytes += block.size();
  ops_.clear();
  literals_.clear();
  copyExpected_ = 0;
  blockTargetBytes_ = 0;
  return onBlock_(std::move(block));
}

Status DeltaEncoder::finish() {
  flushOp();
  return flushBlock();
}

}  // namespace deltahop
