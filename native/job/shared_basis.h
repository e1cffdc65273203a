// A basis that both sides hold: what of it the two of them have to do alike.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "codec/section.h"
#include "tree/tree.h"
#include "wire/reader.h"

namespace deltahop {

/// The canonical manifest of a basis, beside which another is compressed. Memory: the manifest.
class BasisManifest {
 public:
  /// With content digests, so that its digest names the basis.
  explicit BasisManifest(const Tree& tree);

  Digest digest() const;
  /// Appends the payload of a kSharedManifest: whole entries of a manifest that begin near the basis' entry `partner`.
  Status encode(Bytes& payload, SectionWriter& sections, ByteSpan piece, uint32_t partner) const;
  /// Reads it back; the piece is valid until the next call.
  Result<ByteSpan> decode(Reader& reader);

 private:
  Bytes bytes_;
  std::vector<uint64_t> offsets_;  // by entry
  SectionReader reader_;
  Bytes piece_;
};

/// Whether a file whose former self is known goes over page by page: by its size, which is a whole number of pages.
bool isPaged(uint64_t bytes, uint64_t oldBytes);

}  // namespace deltahop
