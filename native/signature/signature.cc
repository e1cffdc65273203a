#include "signature/signature.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "hash/content_digest.h"
#include "wire/reader.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr uint8_t kMagic[4] = {'D', 'H', 'S', 'G'};
// With whole strong hashes, and with shorter ones.
constexpr uint8_t kVersion = 1;
constexpr uint8_t kShortVersion = 2;
constexpr size_t kWeakBytes = 4;
// One in so many files, and the bits that the weak sum decides.
constexpr int kSpareBits = 10;
constexpr int kWeakBits = 32;
constexpr uint8_t kFlagKey = 1;
constexpr size_t kChecksumBytes = 16;
// Entries of one run: a run is held back until it is complete, and a piece is little more than one run.
constexpr uint64_t kMaxRunBlocks = 8192;
// From here on a block size needs a basis that asks for it.
constexpr uint32_t kLargeBlockBytes = 1 << 20;
constexpr size_t kPieceBytes = 256 * 1024;
// Of the basis, for each piece: enough for its way over the network to cost little more than itself.
constexpr uint64_t kMinPieceBasisBytes = 16 << 20;
constexpr uint64_t kMaxBasisPieces = 16;

}  // namespace

namespace {

uint32_t largeEnough(uint64_t blockBytes, uint64_t basisBytes) {
  while (blockBytes < kMaxBlockBytes && (basisBytes + blockBytes - 1) / blockBytes > kMaxSignatureBlocks)
    blockBytes *= 2;
  return static_cast<uint32_t>(blockBytes);
}

}  // namespace

uint32_t chooseBlockBytes(uint64_t basisBytes) {
  if (basisBytes >= (1 << 20) && basisBytes % 4096 == 0) return largeEnough(4096, basisBytes);
  return chooseRootBlockBytes(basisBytes);
}

uint32_t chooseRootBlockBytes(uint64_t basisBytes) {
  const auto root = static_cast<uint64_t>(std::sqrt(static_cast<double>(basisBytes)));
  return largeEnough(std::clamp<uint64_t>(std::bit_ceil(root), kMinBlockBytes, 64 * 1024), basisBytes);
}

unsigned chooseStrongBytes(uint64_t basisBytes, uint32_t blockBytes) {
  const int bits = kSpareBits + 2 * std::bit_width(basisBytes) - std::bit_width(blockBytes) - kWeakBits;
  return static_cast<unsigned>(std::clamp<int>((bits + 7) / 8, kMinStrongBytes, kMaxStrongBytes));
}

uint32_t Signature::blockLength(uint32_t block) const {
  const uint64_t start = uint64_t{block} * blockBytes;
  for (const BasisSpan& file : files) {
    if (start < file.end()) return static_cast<uint32_t>(std::min<uint64_t>(blockBytes, file.end() - start));
  }
  return 0;
}

SignatureWriter::SignatureWriter(uint32_t blockBytes, const Key& key, bool announceKey, unsigned strongBytes)
    : blockBytes_(blockBytes), strongBytes_(strongBytes), key_(key), rolling_(key, blockBytes) {
  Writer writer(output_);
  writer.raw(kMagic);
  writer.u8(strongBytes == kMaxStrongBytes ? kVersion : kShortVersion);
  writer.u8(static_cast<uint8_t>(strongBytes));
  writer.u8(announceKey ? kFlagKey : 0);
  writer.u32(blockBytes);
  if (announceKey) writer.raw(key);
}

Status SignatureWriter::addBlocks(uint64_t firstBlock, ByteSpan data) {
  const size_t wholeBlocks = data.size() / blockBytes_;
  const size_t tailBytes = data.size() % blockBytes_;
  hashes_.resize(wholeBlocks + 1);
  blake3KeyedBlocks(key_, data.data(), blockBytes_, wholeBlocks, hashes_.data());
  const uint8_t* tail = data.data() + wholeBlocks * blockBytes_;
  if (tailBytes > 0) blake3KeyedBlocks(key_, tail, tailBytes, 1, &hashes_[wholeBlocks]);
  const size_t blocks = wholeBlocks + (tailBytes > 0 ? 1 : 0);
  for (size_t i = 0; i < blocks; ++i) {
    const ByteSpan block = data.subspan(i * blockBytes_, i < wholeBlocks ? blockBytes_ : tailBytes);
    if (isZero(block)) continue;
    if (++blockCount_ > kMaxSignatureBlocks + kMaxBasisFiles) {
      return Error{Code::kLimit, "signature of too many blocks: choose a larger block size"};
    }
    const uint64_t number = firstBlock + i;
    if (runBlocks_ == 0 || number != runStart_ + runBlocks_ || runBlocks_ == kMaxRunBlocks) {
      endRun();
      runStart_ = number;
    }
    ++runBlocks_;
    Writer writer(entries_);
    writer.u32(rolling_.hashOf(block.data(), block.size()));
    for (unsigned byte = 0; byte < strongBytes_; ++byte) writer.u8(static_cast<uint8_t>(hashes_[i] >> (8 * byte)));
  }
  return {};
}

void SignatureWriter::endRun() {
  if (runBlocks_ == 0) return;
  Writer writer(output_);
  writer.varint(runStart_ - nextBlock_);
  writer.varint(runBlocks_);
  writer.raw(entries_);
  nextBlock_ = runStart_ + runBlocks_;
  entries_.clear();
  runBlocks_ = 0;
}

void SignatureWriter::finish(std::span<const uint64_t> fileBytes) {
  endRun();
  Writer writer(output_);
  writer.varint(0);
  writer.varint(0);
  writer.varint(fileBytes.size());
  for (const uint64_t bytes : fileBytes) writer.varint(bytes);
  checksum_.update(output_);
  const Digest digest = checksum_.finish();
  writer.raw(ByteSpan(digest).first(kChecksumBytes));
}

Bytes SignatureWriter::take() {
  Bytes taken;
  taken.swap(output_);
  checksum_.update(taken);
  return taken;
}

SignatureBuilder::SignatureBuilder(const Basis& basis, const Key& key, bool announceKey, unsigned strongBytes)
    : basis_(basis), writer_(std::max(basis.blockBytes(), kMinBlockBytes), key, announceKey, strongBytes) {}

Result<Bytes> SignatureBuilder::next(const std::function<bool(uint64_t)>& onProgress) {
  const uint64_t blockBytes = basis_.blockBytes();
  Bytes piece;
  const uint64_t readBefore = readBytes_;
  const uint64_t mostRead = std::max(kMinPieceBasisBytes, basis_.size() / kMaxBasisPieces);
  while (!ended_ && piece.size() < kPieceBytes / 2 && (piece.empty() || readBytes_ - readBefore < mostRead)) {
    if (spanIndex_ == basis_.spans().size()) {
      std::vector<uint64_t> fileBytes;
      for (const BasisSpan& span : basis_.spans()) fileBytes.push_back(span.bytes);
      writer_.finish(fileBytes);
      ended_ = true;
    } else {
      const BasisSpan& span = basis_.spans()[spanIndex_];
      position_ = std::max(position_, span.start);
      if (position_ >= span.end()) {
        ++spanIndex_;
        continue;
      }
      if (position_ < extent_.offset || position_ >= extent_.end()) {
        DH_TRY(extent_, basis_.nextExtent(position_));
      }
      uint64_t stop = std::min(extent_.end(), span.end());
      if (extent_.isHole) {
        // Whole blocks of hole are skipped; a block that only begins with hole is read.
        const uint64_t skipTo = stop == span.end() ? stop : stop / blockBytes * blockBytes;
        if (skipTo > position_) {
          position_ = skipTo;
          continue;
        }
        stop = position_ + 1;
      }
      stop = std::min((stop + blockBytes - 1) / blockBytes * blockBytes, span.end());
      const uint64_t atOnce = std::max<uint64_t>(kPieceBytes / blockBytes * blockBytes, blockBytes);
      const size_t length = std::min(stop - position_, atOnce);
      if (buffer_.size() < length) buffer_.resize(length);
      DH_CHECK(basis_.readAt(position_, {buffer_.data(), length}));
      DH_CHECK(writer_.addBlocks(position_ / blockBytes, {buffer_.data(), length}));
      readBytes_ += length;
      position_ += length;
      if (readBytes_ - readBefore >= mostRead) writer_.cut();
      if (onProgress && !onProgress(position_)) return Error{Code::kCancelled, "make a signature"};
    }
    const Bytes made = writer_.take();
    piece.insert(piece.end(), made.begin(), made.end());
  }
  return piece;
}

Status SignatureParser::feed(ByteSpan input) {
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(position_));
  position_ = 0;
  pending_.insert(pending_.end(), input.begin(), input.end());
  for (;;) {
    if (stage_ == Stage::kEnded) {
      if (position_ < pending_.size()) return Error{Code::kCorrupt, "bytes after the end of a signature"};
      return {};
    }
    const size_t before = position_;
    auto progressed = step();
    if (!progressed.ok()) {
      // Cut short only means "not yet": every item is short, and no step changes anything before it has all of its
      // item.
      if (progressed.error().code == Code::kTruncated) return {};
      return progressed.error();
    }
    if (!progressed.value()) return {};
    if (stage_ != Stage::kEnded) checksum_.update(ByteSpan(pending_).subspan(before, position_ - before));
  }
}

Result<bool> SignatureParser::step() {
  Reader reader(ByteSpan(pending_).subspan(position_));
  switch (stage_) {
    case Stage::kHeader: {
      DH_TRY(const ByteSpan magic, reader.take(sizeof kMagic));
      if (!std::equal(magic.begin(), magic.end(), kMagic)) return Error{Code::kCorrupt, "not a signature"};
      DH_TRY(const uint8_t version, reader.u8());
      if (version != kVersion && version != kShortVersion) {
        return Error{Code::kUnsupported, "signature of an unknown version"};
      }
      DH_TRY(const uint8_t strongBytes, reader.u8());
      DH_TRY(const uint8_t flags, reader.u8());
      const bool isShort = strongBytes >= kMinStrongBytes && strongBytes < kMaxStrongBytes;
      if (flags > kFlagKey || (version == kVersion ? strongBytes != kMaxStrongBytes : !isShort)) {
        return Error{Code::kUnsupported, "signature of an unknown kind"};
      }
      DH_TRY(const uint32_t blockBytes, reader.u32());
      if (blockBytes < kMinBlockBytes || blockBytes > kMaxBlockBytes || !std::has_single_bit(blockBytes)) {
        return Error{Code::kLimit, "signature with a block size out of range"};
      }
      if ((flags & kFlagKey) != 0) {
        DH_TRY(const ByteSpan key, reader.take(signature_.key.size()));
        std::copy(key.begin(), key.end(), signature_.key.begin());
      } else if (key_.has_value()) {
        signature_.key = *key_;
      } else {
        return Error{Code::kProtocol, "signature without a key"};
      }
      signature_.blockBytes = blockBytes;
      signature_.strongBytes = strongBytes;
      stage_ = Stage::kRun;
      break;
    }
    case Stage::kRun: {
      DH_TRY(const uint64_t skip, reader.varint(UINT32_MAX));
      DH_TRY(const uint64_t count, reader.varint(kMaxRunBlocks));
      if (count == 0) {
        if (skip != 0) return Error{Code::kCorrupt, "empty run in a signature"};
        stage_ = Stage::kEnd;
        break;
      }
      nextBlock_ += skip;
      if (nextBlock_ + count > UINT32_MAX) return Error{Code::kLimit, "block number out of range in a signature"};
      if (signature_.blocks.size() + count > kMaxSignatureBlocks + kMaxBasisFiles) {
        return Error{Code::kLimit, "signature of too many blocks"};
      }
      entriesLeft_ = count;
      stage_ = Stage::kEntries;
      break;
    }
    case Stage::kEntries: {
      const size_t entryBytes = kWeakBytes + signature_.strongBytes;
      const uint64_t count = std::min<uint64_t>(entriesLeft_, reader.remaining() / entryBytes);
      if (count == 0) return false;
      for (uint64_t i = 0; i < count; ++i) {
        DH_TRY(const uint32_t weak, reader.u32());
        DH_TRY(const ByteSpan bytes, reader.take(signature_.strongBytes));
        uint64_t strong = 0;
        for (size_t byte = 0; byte < bytes.size(); ++byte) strong |= uint64_t{bytes[byte]} << (8 * byte);
        signature_.blocks.push_back(static_cast<uint32_t>(nextBlock_++));
        signature_.weak.push_back(weak);
        signature_.strong.push_back(strong);
      }
      entriesLeft_ -= count;
      if (entriesLeft_ == 0) stage_ = Stage::kRun;
      break;
    }
    case Stage::kEnd: {
      DH_TRY(const uint64_t files, reader.varint(kMaxBasisFiles));
      std::vector<uint64_t> fileBytes;
      for (uint64_t i = 0; i < files; ++i) {
        DH_TRY(const uint64_t bytes, reader.varint(kMaxFileBytes));
        fileBytes.push_back(bytes);
      }
      const size_t covered = reader.position();
      DH_TRY(const ByteSpan expected, reader.take(kChecksumBytes));
      checksum_.update(ByteSpan(pending_).subspan(position_, covered));
      const Digest digest = checksum_.finish();
      if (!std::equal(expected.begin(), expected.end(), digest.begin())) {
        return Error{Code::kCorrupt, "signature with a wrong checksum"};
      }
      signature_.files = basisLayout(fileBytes, signature_.blockBytes);
      const uint64_t basisBytes = signature_.basisBytes();
      if (!signature_.blocks.empty() && uint64_t{signature_.blocks.back()} * signature_.blockBytes >= basisBytes) {
        return Error{Code::kCorrupt, "signature with a block beyond its basis"};
      }
      // Large blocks are for large files only: the block size decides the reader's memory.
      if (signature_.blockBytes > kLargeBlockBytes && !signature_.blocks.empty() &&
          basisBytes / signature_.blockBytes < kMaxSignatureBlocks / 4) {
        return Error{Code::kLimit, "signature with blocks too large for its basis"};
      }
      stage_ = Stage::kEnded;
      break;
    }
    case Stage::kEnded:
      return false;
  }
  position_ += reader.position();
  return true;
}

Result<Signature> SignatureParser::finish() {
  if (stage_ != Stage::kEnded) return Error{Code::kTruncated, "signature cut short"};
  return std::move(signature_);
}

}  // namespace deltahop
