#include "hash/blake3.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "hash/kernels.h"

namespace deltahop {
namespace {

namespace kernel = blake3kernel;

constexpr size_t kChunkBytes = 1024;
constexpr size_t kChunkBlocks = 16;
constexpr size_t kBlockBytes = 64;
// Chunks hashed side by side: a multiple of every kernel's width, and deep enough that most parents are too.
constexpr size_t kBatchChunks = 64;

void hashMany(const kernel::Batch& batch) {
  kernels().blake3HashMany(batch);
}

// One level of parents over `count` (even) chaining values; in place.
void reduceLevel(uint32_t* values, size_t count, const uint32_t* key, uint32_t flags, uint32_t rootFlag) {
  const uint8_t* inputs[kBatchChunks / 2];
  static constexpr uint64_t kCounters[kBatchChunks / 2] = {};
  uint32_t output[kBatchChunks / 2 * 8];
  const size_t parents = count / 2;
  for (size_t i = 0; i < parents; ++i) inputs[i] = reinterpret_cast<const uint8_t*>(values + 16 * i);
  hashMany({inputs, kCounters, parents, 1, key, flags | kernel::kParent | rootFlag, 0, 0, output});
  std::memcpy(values, output, parents * 32);
}

}  // namespace

Blake3::Blake3(const ChainingValue& key, uint32_t flags) : key_(key), flags_(flags) {}

Blake3::Blake3() : Blake3(std::to_array(kernel::kIv), 0) {}

Blake3 Blake3::keyed(const Key& key) {
  return Blake3(std::bit_cast<ChainingValue>(key), kernel::kKeyedHash);
}

// Adds a complete subtree of 2^level chunks that is known not to be the root. The stack holds one subtree for each set
// bit of chunkCounter_; equal neighbours merge as in binary addition.
void Blake3::pushSubtree(const ChainingValue& value, unsigned level) {
  ChainingValue right = value;
  uint64_t total = chunkCounter_ >> level;
  while (total & 1) {
    ChainingValue block[2] = {stack_[--stackDepth_], right};
    right = key_;
    kernel::compress(right.data(), reinterpret_cast<const uint8_t*>(block), kBlockBytes, 0, flags_ | kernel::kParent);
    total >>= 1;
  }
  stack_[stackDepth_++] = right;
  chunkCounter_ += uint64_t{1} << level;
}

void Blake3::update(ByteSpan input) {
  while (!input.empty()) {
    // A chunk is closed only when more input follows: the last one may be the root.
    if (chunkBytes_ == kChunkBytes) {
      ChainingValue value = key_;
      for (size_t block = 0; block < kChunkBlocks; ++block) {
        const uint32_t edge = (block == 0 ? kernel::kChunkStart : 0u) | (block == 15 ? kernel::kChunkEnd : 0u);
        kernel::compress(value.data(), chunk_.data() + block * kBlockBytes, kBlockBytes, chunkCounter_, flags_ | edge);
      }
      pushSubtree(value, 0);
      chunkBytes_ = 0;
    }
    if (chunkBytes_ == 0 && input.size() > kChunkBytes) {
      // As many chunks as are surely followed by more, side by side whatever subtrees they belong to.
      const uint64_t available = (input.size() - 1) / kChunkBytes;
      const size_t count = std::min<uint64_t>(available, kBatchChunks - chunkCounter_ % kBatchChunks);
      const uint8_t* inputs[kBatchChunks];
      uint64_t counters[kBatchChunks];
      uint32_t values[kBatchChunks * 8];
      for (size_t i = 0; i < count; ++i) {
        inputs[i] = input.data() + i * kChunkBytes;
        counters[i] = chunkCounter_ + i;
      }
      hashMany(
          {inputs, counters, count, kChunkBlocks, key_.data(), flags_, kernel::kChunkStart, kernel::kChunkEnd, values});
      for (size_t done = 0; done < count;) {
        // The largest subtree that begins at this place.
        const uint64_t aligned = chunkCounter_ == 0 ? kBatchChunks : uint64_t{1} << std::countr_zero(chunkCounter_);
        const size_t chunks = std::bit_floor(std::min<uint64_t>(count - done, aligned));
        uint32_t* leaves = values + done * 8;
        for (size_t left = chunks; left > 1; left /= 2) reduceLevel(leaves, left, key_.data(), flags_, 0);
        ChainingValue value;
        std::memcpy(value.data(), leaves, sizeof value);
        pushSubtree(value, static_cast<unsigned>(std::countr_zero(chunks)));
        done += chunks;
      }
      input = input.subspan(count * kChunkBytes);
      continue;
    }
    const size_t taken = std::min(kChunkBytes - chunkBytes_, input.size());
    std::memcpy(chunk_.data() + chunkBytes_, input.data(), taken);
    chunkBytes_ += taken;
    input = input.subspan(taken);
  }
}

Digest Blake3::finish() const {
  // The last chunk, all but its last block.
  ChainingValue value = key_;
  const size_t blocks = chunkBytes_ == 0 ? 1 : (chunkBytes_ + kBlockBytes - 1) / kBlockBytes;
  for (size_t block = 0; block + 1 < blocks; ++block) {
    kernel::compress(value.data(), chunk_.data() + block * kBlockBytes, kBlockBytes, chunkCounter_,
                     flags_ | (block == 0 ? kernel::kChunkStart : 0u));
  }
  std::array<uint8_t, kBlockBytes> last{};
  const size_t lastBytes = chunkBytes_ - (blocks - 1) * kBlockBytes;
  std::memcpy(last.data(), chunk_.data() + (blocks - 1) * kBlockBytes, lastBytes);
  const uint32_t lastFlags = flags_ | kernel::kChunkEnd | (blocks == 1 ? kernel::kChunkStart : 0u);
  size_t depth = stackDepth_;
  kernel::compress(value.data(), last.data(), static_cast<uint32_t>(lastBytes), chunkCounter_,
                   lastFlags | (depth == 0 ? kernel::kRoot : 0u));
  while (depth > 0) {
    ChainingValue block[2] = {stack_[--depth], value};
    value = key_;
    kernel::compress(value.data(), reinterpret_cast<const uint8_t*>(block), kBlockBytes, 0,
                     flags_ | kernel::kParent | (depth == 0 ? kernel::kRoot : 0u));
  }
  return std::bit_cast<Digest>(value);
}

Digest blake3(ByteSpan input) {
  Blake3 hasher;
  hasher.update(input);
  return hasher.finish();
}

Digest blake3Keyed(const Key& key, ByteSpan input) {
  Blake3 hasher = Blake3::keyed(key);
  hasher.update(input);
  return hasher.finish();
}

void blake3KeyedBlocks(const Key& key, const uint8_t* blocks, size_t blockBytes, size_t count, uint64_t* hashes) {
  const size_t chunks = blockBytes / kChunkBytes;
  const bool isTree =
      blockBytes % kChunkBytes == 0 && std::has_single_bit(chunks) && chunks >= 2 && chunks <= kBatchChunks;
  if (!isTree) {
    for (size_t i = 0; i < count; ++i) {
      const Digest digest = blake3Keyed(key, {blocks + i * blockBytes, blockBytes});
      std::memcpy(hashes + i, digest.data(), 8);
    }
    return;
  }
  // Several whole trees at once: each level of all of them is one batch, the last one with the root flag.
  const auto keyWords = std::bit_cast<std::array<uint32_t, 8>>(key);
  const size_t perBatch = kBatchChunks / chunks;
  for (size_t done = 0; done < count;) {
    const size_t trees = std::min(perBatch, count - done);
    const uint8_t* inputs[kBatchChunks];
    uint64_t counters[kBatchChunks];
    uint32_t values[kBatchChunks * 8];
    const size_t leaves = trees * chunks;
    for (size_t i = 0; i < leaves; ++i) {
      inputs[i] = blocks + done * blockBytes + i * kChunkBytes;
      counters[i] = i % chunks;
    }
    hashMany({inputs, counters, leaves, kChunkBlocks, keyWords.data(), kernel::kKeyedHash, kernel::kChunkStart,
              kernel::kChunkEnd, values});
    for (size_t left = leaves; left > trees; left /= 2) {
      reduceLevel(values, left, keyWords.data(), kernel::kKeyedHash, left == 2 * trees ? uint32_t{kernel::kRoot} : 0u);
    }
    for (size_t i = 0; i < trees; ++i) std::memcpy(hashes + done + i, values + 8 * i, 8);
    done += trees;
  }
}

}  // namespace deltahop
