// Messages about many files at once: lists of them, offers, and what came of these. FORMATS.md section 5.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "hash/blake3.h"
#include "wire/reader.h"

namespace deltahop {

/// Of the keyed BLAKE3 of a content digest, in an offer: enough for a guess, which kSame confirms by whole digests.
inline constexpr size_t kOfferBytes = 5;
/// The same before kDiffersVersion, where it decided alone.
inline constexpr size_t kLoneOfferBytes = 16;

/// Gathers a list of files.
class FileListWriter {
 public:
  /// False if the index is not above the last one: then it belongs into another list.
  bool takes(uint32_t index) const { return index >= next_; }
  void add(uint32_t index);
  /// For what is said of the file just added.
  void add(ByteSpan more);
  size_t bytes() const { return list_.size(); }
  bool isEmpty() const { return list_.empty(); }
  /// The list, and begins another.
  Bytes take();

 private:
  Bytes list_;
  uint32_t next_ = 0;
};

/// Reads a list up to its end. kProtocol for an index that is none of `entries`.
Result<std::vector<uint32_t>> readFileList(Reader& reader, uint32_t entries);

/// An offer: a file of which the receiver has one that may be it.
struct Offer {
  uint32_t index = 0;
  ByteSpan sum;
};

/// The keyed BLAKE3 of the digest, of which an offer has the first bytes.
Digest offerSum(const Key& key, const Digest& digest);

/// Reads a list of offers with sums of this length; they are views of the payload.
Result<std::vector<Offer>> readOffers(ByteSpan payload, uint32_t entries, size_t sumBytes);

/// Files that are what was offered for them.
struct SameFiles {
  std::optional<Digest> digests;  // BLAKE3 of their content digests, one after the other
  std::vector<uint32_t> indexes;
};

/// Reads a kSame; `confirmed`: with the digest.
Result<SameFiles> readSame(ByteSpan payload, uint32_t entries, bool confirmed);

}  // namespace deltahop
