// The messages of a tree transfer: FORMATS.md section 5.
#pragma once

#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "codec/literal_stream.h"
#include "wire/reader.h"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace deltahop {

inline constexpr uint32_t kTransferMagic = 0x54484C44;  // "DLHT"
inline constexpr uint16_t kTransferVersion = 6;
inline constexpr uint16_t kOldestTransferVersion = 2;
/// From this version on the sender says which offers were wrong, and their files are asked for again.
inline constexpr uint16_t kDiffersVersion = 3;
/// From this version on all literals of a transfer may be one stream.
inline constexpr uint16_t kLiteralStreamVersion = 3;
/// From this version on files may be the same as those of a shared basis.
inline constexpr uint16_t kSharedSameVersion = 4;

/// From this version on a sender may ask for rolling sums of a basis.
inline constexpr uint16_t kRollingSumsVersion = 5;
/// From this version on a sender may name files outside of the tree that the receiver may hold as well.
inline constexpr uint16_t kCommonFilesVersion = 6;

/// Frame types. The sender's are below 16 or from 32 on, the receiver's from 16, kError is everybody's.
enum class Message : uint8_t {
  kSenderHello = 1,
  kTree = 2,         // what the sender has: counts and the digest of its manifest
  kManifest = 3,     // packed entries
  kManifestEnd = 4,  // no more entries
  kDelta = 5,        // one delta block of a file
  kFileEnd = 6,      // size and digest of the file whose blocks came
  kSmallFiles = 7,   // whole files, packed together
  kGone = 8,         // a requested file that cannot be sent
  kAnswersEnd = 9,   // everything requested before kRequestsEnd was answered
  // Against a basis that both sides hold, sent before the receiver has said that it does.
  kSharedManifest = 10,  // a piece of the manifest, compressed beside the basis' own
  kPages = 11,           // one page block of a file
  kPart = 12,            // a part of a file, compressed beside the old file
  kSmallChanges = 13,    // small files, compressed beside the old ones
  kSharedEnd = 14,       // no more of this
  kSumsWanted = 15,      // of blocks of the basis of a file that was asked for by pages
  kReceiverHello = 16,
  kManifestWanted = 17,
  kSettled = 18,  // the receiver's tree is the sender's already
  kRequest = 19,  // files wanted whole
  kSignature = 20,
  kRequestsEnd = 21,
  kDone = 22,
  kBasisHeld = 23,    // the receiver takes what is sent against the basis
  kPagesWanted = 24,  // a file wanted by pages, and how long its basis is
  kSums = 25,         // of that basis
  kOffer = 26,        // files of which the receiver has one that may be it
  kError = 31,
  // The sender's.
  kSame = 32,     // files that are what was offered for them, or what the basis has at their paths
  kDiffers = 33,  // files that are not
};

/// True for the types that only a receiver sends.
inline constexpr bool isReceivers(uint8_t type) {
  return type >= static_cast<uint8_t>(Message::kReceiverHello) && type < static_cast<uint8_t>(Message::kError);
}

// Bits of kSenderHello.
inline constexpr uint8_t kHelloVerify = 1 << 0;
// Bits of kTree.
inline constexpr uint8_t kTreeComplete = 1 << 0;
inline constexpr uint8_t kTreeShared = 1 << 1;  // the digest of a basis follows, and messages against it
inline constexpr uint8_t kTreeCommon = 1 << 2;  // names of files that both may hold follow
// Bits of a file's answer.
inline constexpr uint8_t kFileChanged = 1 << 0;  // changed while it was read: what came may be of two times
// Bits of kPagesWanted.
inline constexpr uint8_t kPagesExact = 1 << 0;   // what came before was wrong: no guesses this time
inline constexpr uint8_t kPagesCommon = 1 << 1;  // the basis is of common files: which, follows, and no sums do
// Bits of the width in kSumsWanted.
inline constexpr uint8_t kRollingSums = 1 << 7;
// Bits of kSignature.
inline constexpr uint8_t kSignatureLast = 1 << 0;

/// A file up to this size is sent at once if it is not what was offered: a signature costs about as much.
inline constexpr uint64_t kAlwaysWholeBytes = 512;
/// Files up to this size are sent whole, many to a message.
inline constexpr uint64_t kSmallFileBytes = 64 << 10;
/// Bounds of what is compressed beside an old file, and of the old bytes that help.
inline constexpr size_t kMaxPartBytes = 256 << 10;
inline constexpr size_t kMaxPartOldBytes = 1 << 20;
/// Bytes of a packed message before compression.
inline constexpr size_t kMaxPackedBytes = 960 << 10;

/// Compresses payloads that consist of many small things. Not for several threads.
class Packer {
 public:
  explicit Packer(int zstdLevel);
  ~Packer();
  Packer(const Packer&) = delete;
  Packer& operator=(const Packer&) = delete;
  /// Appends varint raw bytes, u8 coding (0 as it is, 1 zstd), and the bytes, to the end of a payload.
  Status pack(Bytes& output, ByteSpan raw);
  /// The same as a piece of a stream of literals.
  Status pack(Bytes& output, ByteSpan raw, LiteralStreamWriter& stream);

 private:
  ZSTD_CCtx_s* context_;
  int zstdLevel_;
  Bytes buffer_;
};

class Unpacker {
 public:
  Unpacker();
  ~Unpacker();
  Unpacker(const Unpacker&) = delete;
  Unpacker& operator=(const Unpacker&) = delete;
  /// Reads what Packer::pack appended, to the end of the payload. The view is valid until the next call.
  Result<ByteSpan> unpack(Reader& reader);
  /// The same for what may be a piece of a stream of literals.
  Result<ByteSpan> unpack(Reader& reader, LiteralStreamReader& stream);

 private:
  ZSTD_DCtx_s* context_;
  Bytes buffer_;
};

/// Payload of kError.
Bytes encodeError(const Error& error);
/// The peer's words as a kPeer error; control characters are replaced. kCorrupt if they
/// cannot be read.
Error decodeError(ByteSpan payload);

}  // namespace deltahop
