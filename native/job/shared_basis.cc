#include "job/shared_basis.h"

#include <algorithm>

#include "hash/blake3.h"
#include "io/page_file.h"
#include "match/page_matcher.h"
#include "tree/manifest.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

// What is looked at of the basis for a piece of a manifest: from a little before where it would be.
constexpr uint64_t kBeforeBytes = 64 << 10;
constexpr uint64_t kBesideBytes = 512 << 10;
constexpr size_t kMaxPieceBytes = 960 << 10;
constexpr uint64_t kMinPagedBytes = 64 << 10;

}  // namespace

BasisManifest::BasisManifest(const Tree& tree) {
  ManifestEncoder encoder(tree);
  offsets_.reserve(tree.size());
  for (bool more = true; more;) {
    offsets_.push_back(bytes_.size());
    more = encoder.next(bytes_, bytes_.size() + 1);
  }
}

Digest BasisManifest::digest() const {
  return blake3(bytes_);
}

Status BasisManifest::encode(Bytes& payload, SectionWriter& sections, ByteSpan piece, uint32_t partner) const {
  const uint64_t near = partner < offsets_.size() ? offsets_[partner] : 0;
  const uint64_t begin = near > kBeforeBytes ? near - kBeforeBytes : 0;
  const uint64_t length = std::min<uint64_t>(kBesideBytes, bytes_.size() - begin);
  Writer writer(payload);
  writer.varint(begin);
  writer.varint(length);
  const auto written = sections.write(payload, piece, ByteSpan(bytes_).subspan(begin, length));
  return written.ok() ? Status() : written.error();
}

Result<ByteSpan> BasisManifest::decode(Reader& reader) {
  DH_TRY(const uint64_t begin, reader.varint(bytes_.size()));
  DH_TRY(const uint64_t length, reader.varint(bytes_.size() - begin));
  DH_CHECK(reader_.read(reader, kMaxPieceBytes, piece_, ByteSpan(bytes_).subspan(begin, length)));
  DH_CHECK(reader.expectEnd());
  return ByteSpan(piece_);
}

bool isPaged(uint64_t bytes, uint64_t oldBytes) {
  return bytes >= kMinPagedBytes && bytes % kPageBytes == 0 && oldBytes >= kPageBytes &&
         bytes <= PageMatcher::kMaxBytes && oldBytes <= PageMatcher::kMaxBytes;
}

}  // namespace deltahop
