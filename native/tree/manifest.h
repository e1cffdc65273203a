// A Tree as bytes: FORMATS.md section 4.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "tree/tree.h"
#include "wire/reader.h"

namespace deltahop {

/// Writes a tree's entries in order. The bytes of all pieces together do not depend on where they were cut, so they are
/// the canonical manifest as well.
class ManifestEncoder {
 public:
  /// The tree must outlive the encoder. Content digests are written where the tree carries them, if at all.
  explicit ManifestEncoder(const Tree& tree, bool withDigests = true);
  /// Appends whole entries until `output` holds at least `targetBytes`; false once all are written. One entry is at
  /// most 600 KiB (kMaxXattrListBytes and its names).
  bool next(Bytes& output, size_t targetBytes);
  /// Entries written so far.
  uint32_t entries() const { return next_; }

 private:
  void encode(uint32_t index, Bytes& output);

  const Tree& tree_;
  bool withDigests_;
  uint32_t next_ = 0;
  Entry before_;                           // the one written last
  std::vector<uint32_t> lastSibling_;      // by depth: the entry before, in the same directory
  std::vector<uint32_t> attributesIndex_;  // of the tree's table → of the manifest
  std::vector<uint32_t> xattrsIndex_;
  uint32_t attributesCount_ = 0;
  uint32_t xattrsCount_ = 0;
};

/// Reads entries back. Everything is checked: names (isSafeName, strictly rising in each directory, never the reserved
/// one at the root), depth, table indexes, links (to an earlier entry that is no directory and no link itself), sizes.
class ManifestDecoder {
 public:
  ManifestDecoder();
  /// A piece with whole entries, as ManifestEncoder::next gave it. kCorrupt, kTruncated, kLimit, kUnsafePath.
  Status feed(ByteSpan piece);
  /// Entries so far.
  uint32_t entries() const { return tree_.size(); }
  /// The tree; kCorrupt if its number of entries is not the announced one, or it lacks a root. Call once.
  Result<Tree> finish(uint64_t announcedEntries);

 private:
  Status decode(Reader& reader);
  Result<uint32_t> readAttributes(Reader& reader);
  Result<uint32_t> readXattrs(Reader& reader);

  Tree tree_;
  std::vector<uint32_t> lastSibling_;
  std::vector<uint32_t> parents_;     // by depth: the directory entered
  std::vector<uint32_t> attributes_;  // of the manifest → of the tree's table
  std::vector<uint32_t> xattrs_;
};

/// BLAKE3-256 of the tree's canonical manifest, with the content digests that it carries, if at all.
Digest manifestDigest(const Tree& tree, bool withDigests = true);

}  // namespace deltahop
