#include "codec/delta_stream.h"

#include <algorithm>

#include "codec/delta_encoder.h"
#include "hash/content_digest.h"
#include "io/basis.h"
#include "wire/reader.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr uint8_t kMagic[4] = {'D', 'H', 'D', 'L'};
constexpr uint8_t kVersion = 1;
// All files of a basis together, with room for the gaps between them.
constexpr uint64_t kMaxBasisBytes = kMaxFileBytes * (kMaxBasisFiles + 1);

}  // namespace

void writeDeltaHeader(Bytes& output, uint64_t basisBytes) {
  Writer writer(output);
  writer.raw(kMagic);
  writer.u8(kVersion);
  writer.varint(basisBytes);
}

void writeDeltaBlock(Bytes& output, ByteSpan block) {
  Writer(output).bytes(block);
}

void writeDeltaEnd(Bytes& output, uint64_t targetBytes, const Digest& contentDigest) {
  Writer writer(output);
  writer.varint(0);
  writer.varint(targetBytes);
  writer.raw(contentDigest);
}

Status DeltaStreamReader::feed(ByteSpan input) {
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(position_));
  position_ = 0;
  pending_.insert(pending_.end(), input.begin(), input.end());
  while (stage_ != Stage::kEnded) {
    DH_TRY(const bool progressed, step());
    if (!progressed) return {};
  }
  if (position_ < pending_.size()) return Error{Code::kCorrupt, "bytes after the end of a delta"};
  return {};
}

// Reads one part; false if it is not there as a whole yet.
Result<bool> DeltaStreamReader::step() {
  Reader reader(ByteSpan(pending_).subspan(position_));
  uint64_t basisBytes = 0;
  uint64_t targetBytes = 0;
  ByteSpan block;
  Digest digest{};
  bool isEnd = false;
  const auto read = [&]() -> Status {
    if (stage_ == Stage::kHeader) {
      DH_TRY(const ByteSpan magic, reader.take(sizeof kMagic));
      if (!std::equal(magic.begin(), magic.end(), kMagic)) return Error{Code::kCorrupt, "not a delta"};
      DH_TRY(const uint8_t version, reader.u8());
      if (version != kVersion) return Error{Code::kUnsupported, "delta of an unknown version"};
      DH_TRY(basisBytes, reader.varint(kMaxBasisBytes));
      return {};
    }
    DH_TRY(block, reader.bytes(kMaxDeltaBlockBytes));
    if (!block.empty()) return {};
    isEnd = true;
    DH_TRY(targetBytes, reader.varint(kMaxFileBytes));
    DH_TRY(const ByteSpan bytes, reader.take(digest.size()));
    std::copy(bytes.begin(), bytes.end(), digest.begin());
    return {};
  };
  const Status status = read();
  if (!status.ok()) {
    if (status.error().code == Code::kTruncated) return false;
    return status.error();
  }
  position_ += reader.position();
  if (stage_ == Stage::kHeader) {
    stage_ = Stage::kBlocks;
    DH_CHECK(sink_.onHeader(basisBytes));
  } else if (isEnd) {
    stage_ = Stage::kEnded;
    DH_CHECK(sink_.onEnd(targetBytes, digest));
  } else {
    DH_CHECK(sink_.onBlock(block));
  }
  return true;
}

Status DeltaStreamReader::expectEnd() const {
  if (stage_ != Stage::kEnded) return Error{Code::kTruncated, "delta cut short"};
  return {};
}

}  // namespace deltahop
