#include "codec/delta_decoder.h"

#include "wire/reader.h"

namespace deltahop {
namespace {

constexpr uint64_t kOpLiteral = 1;
constexpr uint64_t kOpZeros = 2;
constexpr uint64_t kOpCopy = 3;

int64_t unzigzag(uint64_t value) {
  return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
}

}  // namespace

DeltaDecoder::DeltaDecoder(uint64_t basisBytes, uint64_t maxTargetBytes, LiteralStreamReader* stream)
    : basisBytes_(basisBytes), maxTargetBytes_(maxTargetBytes), stream_(stream) {}

// Calls visit(op, length, basisOffset, literal) for each instruction, checking all of them on the way.
template <typename Visit>
Status DeltaDecoder::forEachOp(Visit visit) const {
  Reader reader(ops_);
  Reader literals(literals_);
  uint64_t copyExpected = 0;
  uint64_t targetBytes = targetBytes_;
  while (reader.remaining() > 0) {
    DH_TRY(const uint64_t tag, reader.varint());
    const uint64_t op = tag & 3;
    const uint64_t length = tag >> 2;
    if (length == 0) return Error{Code::kCorrupt, "empty delta instruction"};
    if (length > maxTargetBytes_ - targetBytes)
      return Error{Code::kLimit, "delta makes more than announced or allowed"};
    targetBytes += length;
    if (op == kOpLiteral) {
      auto data = literals.take(length);
      if (!data.ok()) return Error{Code::kCorrupt, "delta instruction without its literals"};
      DH_CHECK(visit(op, length, 0, data.value()));
    } else if (op == kOpZeros) {
      DH_CHECK(visit(op, length, 0, ByteSpan()));
    } else if (op == kOpCopy) {
      DH_TRY(const uint64_t jump, reader.varint());
      const uint64_t offset = copyExpected + static_cast<uint64_t>(unzigzag(jump));
      if (offset > basisBytes_ || length > basisBytes_ - offset) {
        return Error{Code::kCorrupt, "delta copies from outside the basis"};
      }
      copyExpected = offset + length;
      DH_CHECK(visit(op, length, offset, ByteSpan()));
    } else {
      return Error{Code::kCorrupt, "unknown delta instruction"};
    }
  }
  if (literals.remaining() > 0) return Error{Code::kCorrupt, "delta literals without an instruction"};
  return {};
}

Status DeltaDecoder::decode(ByteSpan block, DeltaSink& sink) {
  Reader reader(block);
  DH_CHECK(sections_.read(reader, kMaxDeltaOpsBytes, ops_));
  DH_CHECK(stream_ != nullptr ? sections_.read(reader, kMaxDeltaLiteralBytes, literals_, *stream_)
                              : sections_.read(reader, kMaxDeltaLiteralBytes, literals_));
  DH_CHECK(reader.expectEnd());
  if (ops_.empty()) return Error{Code::kCorrupt, "empty delta block"};
  uint64_t blockTargetBytes = 0;
  auto checked = forEachOp([&](uint64_t, uint64_t length, uint64_t, ByteSpan) -> Status {
    blockTargetBytes += length;
    return {};
  });
  if (!checked.ok()) {
    // Inside a whole block nothing may be cut short: only a stream can be.
    if (checked.error().code == Code::kTruncated) checked.error().code = Code::kCorrupt;
    return checked;
  }
  DH_CHECK(forEachOp([&](uint64_t op, uint64_t length, uint64_t offset, ByteSpan data) -> Status {
    if (op == kOpLiteral) return sink.literal(data);
    if (op == kOpZeros) return sink.zeros(length);
    return sink.copy(offset, length);
  }));
  targetBytes_ += blockTargetBytes;
  return {};
}

Status skipDeltaBlock(ByteSpan block, LiteralStreamReader& stream) {
  Reader reader(block);
  SectionReader sections;
  Bytes skipped;
  DH_CHECK(sections.read(reader, kMaxDeltaOpsBytes, skipped));
  DH_CHECK(sections.read(reader, kMaxDeltaLiteralBytes, skipped, stream));
  return reader.expectEnd();
}

}  // namespace deltahop
