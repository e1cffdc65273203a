// BLAKE3, written from the specification (github.com/BLAKE3-team/BLAKE3-specs, sections 2.1 to 2.6); 256-bit output
// only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/bytes.h"

namespace deltahop {

/// Incremental BLAKE3, plain or keyed. Any split of the input gives the same digest.
class Blake3 {
 public:
  Blake3();
  static Blake3 keyed(const Key& key);

  void update(ByteSpan input);
  /// The digest of all input so far; more may follow.
  Digest finish() const;

 private:
  using ChainingValue = std::array<uint32_t, 8>;
  static constexpr size_t kMaxDepth = 54;  // 2^54 chunks of 1 KiB are 2^64 bytes

  Blake3(const ChainingValue& key, uint32_t flags);
  void pushSubtree(const ChainingValue& value, unsigned level);

  ChainingValue key_;
  uint32_t flags_;
  uint64_t chunkCounter_ = 0;  // complete chunks that are in the stack
  std::array<ChainingValue, kMaxDepth> stack_;
  size_t stackDepth_ = 0;
  std::array<uint8_t, 1024> chunk_;  // the chunk that is not known to be followed by another
  size_t chunkBytes_ = 0;
};

Digest blake3(ByteSpan input);
Digest blake3Keyed(const Key& key, ByteSpan input);

/// The first 8 bytes (as a little-endian number) of the keyed BLAKE3 of each of `count` blocks of `blockBytes` bytes
/// that lie one after the other from `blocks`. Small blocks are hashed side by side, which is several times faster than
/// one by one.
void blake3KeyedBlocks(const Key& key, const uint8_t* blocks, size_t blockBytes, size_t count, uint64_t* hashes);

}  // namespace deltahop
