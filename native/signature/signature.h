// Signatures: the hashes of a basis that let the other side find its content. FORMATS.md section 2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "hash/blake3.h"
#include "hash/rolling_hash.h"
#include "io/basis.h"

namespace deltahop {

inline constexpr uint32_t kMinBlockBytes = 512;
inline constexpr uint32_t kMaxBlockBytes = 1 << 26;
/// A signature never has more entries: with 16 bytes each this bounds the memory for a basis of any size.
inline constexpr uint64_t kMaxSignatureBlocks = 1 << 20;
inline constexpr unsigned kMinStrongBytes = 2;
inline constexpr unsigned kMaxStrongBytes = 8;

/// The block size for a basis of this many bytes: 4096 for images (a multiple of 4096 from 1 MiB on), else as of any
/// other file.
uint32_t chooseBlockBytes(uint64_t basisBytes);
/// About the square root, a power of two in [512, 64 KiB]; doubled until there are at most kMaxSignatureBlocks.
uint32_t chooseRootBlockBytes(uint64_t basisBytes);
/// How much of the strong hashes is needed so that in a thousand files of this size one has a false match, if the weak
/// ones decide with them. For where a false match is found and costs little.
unsigned chooseStrongBytes(uint64_t basisBytes, uint32_t blockBytes);

/// A received signature. Entry i describes one block of the basis; entries are in rising order of blocks, all-zero
/// blocks and holes have none.
struct Signature {
  Key key{};
  uint32_t blockBytes = 0;
  unsigned strongBytes = kMaxStrongBytes;
  std::vector<BasisSpan> files;
  std::vector<uint32_t> blocks;  // the block's number: it starts at blocks[i] * blockBytes
  std::vector<uint32_t> weak;    // rolling hash
  std::vector<uint64_t> strong;  // first strongBytes of the keyed BLAKE3, little-endian

  uint64_t basisBytes() const { return files.empty() ? 0 : files.back().end(); }
  /// Bytes of a block: less than blockBytes only where a file ends.
  uint32_t blockLength(uint32_t block) const;
  /// The part of a hash that is in `strong`.
  uint64_t shortened(uint64_t hash) const { return hash & (UINT64_MAX >> (64 - 8 * strongBytes)); }
};

/// Writes the signature format; knows hashes, not files.
class SignatureWriter {
 public:
  /// `key` draws weak and strong hashes; with `announceKey` it goes into the header, else the parser must be given it.
  /// `strongBytes` of each strong hash are kept.
  SignatureWriter(uint32_t blockBytes, const Key& key, bool announceKey, unsigned strongBytes = kMaxStrongBytes);

  /// Adds blocks that lie one after the other, from block number `firstBlock` (rising from call to call) on; only the
  /// last may be short, and only where a file ends. All-zero blocks are left out. kLimit above kMaxSignatureBlocks.
  Status addBlocks(uint64_t firstBlock, ByteSpan data);
  /// Ends what lies together, so that take() gives all of it.
  void cut() { endRun(); }
  /// Writes the end mark.
  void finish(std::span<const uint64_t> fileBytes);
  /// What has been written since the last call.
  Bytes take();
  uint64_t blockCount() const { return blockCount_; }

 private:
  void endRun();

  const uint32_t blockBytes_;
  const unsigned strongBytes_;
  const Key key_;
  const RollingHash rolling_;
  Bytes output_;
  Bytes entries_;  // of the open run
  std::vector<uint64_t> hashes_;
  uint64_t runStart_ = 0;
  uint64_t runBlocks_ = 0;
  uint64_t nextBlock_ = 0;  // first block after the last run that was written
  uint64_t blockCount_ = 0;
  Blake3 checksum_;
};

/// Makes the signature of a basis piece by piece. Reads no holes.
class SignatureBuilder {
 public:
  /// The basis must outlive the builder. The rest as for SignatureWriter.
  SignatureBuilder(const Basis& basis, const Key& key, bool announceKey, unsigned strongBytes = kMaxStrongBytes);

  /// The next piece, at most 256 KiB and of some MiB of the basis, so that the reader can begin to look for it; empty
  /// once all is made. `onProgress`, if given, is told the basis bytes done
  /// after each read; returning false ends with kCancelled.
  Result<Bytes> next(const std::function<bool(uint64_t)>& onProgress = {});
  /// Bytes of the basis settled so far.
  uint64_t doneBytes() const { return position_; }
  uint64_t readBytes() const { return readBytes_; }
  uint64_t blockCount() const { return writer_.blockCount(); }

 private:
  const Basis& basis_;
  SignatureWriter writer_;
  Bytes buffer_;
  size_t spanIndex_ = 0;
  uint64_t position_ = 0;
  Extent extent_;  // the last one that was looked for
  uint64_t readBytes_ = 0;
  bool ended_ = false;
};

/// Reads a signature from buffers of any split. Everything is bounded: sizes, counts, and what they imply together.
class SignatureParser {
 public:
  /// `key` is used if (and only if) the header carries none.
  explicit SignatureParser(std::optional<Key> key = std::nullopt) : key_(key) {}

  /// kCorrupt, kLimit, kUnsupported; bytes after the end are kCorrupt.
  Status feed(ByteSpan input);
  /// True once the end mark was read and its checksum is right.
  bool ended() const { return stage_ == Stage::kEnded; }
  /// What has been read so far: its files are there at the end, and entries are unchecked until then.
  const Signature& signature() const { return signature_; }
  /// The signature; kTruncated before ended(). Call once.
  Result<Signature> finish();

 private:
  enum class Stage : uint8_t { kHeader, kRun, kEntries, kEnd, kEnded };
  /// Reads one item if `pending_` holds it whole; false if more bytes are needed.
  Result<bool> step();

  std::optional<Key> key_;
  Signature signature_;
  Stage stage_ = Stage::kHeader;
  Bytes pending_;
  size_t position_ = 0;
  Blake3 checksum_;
  uint64_t nextBlock_ = 0;
  uint64_t entriesLeft_ = 0;
};

}  // namespace deltahop
