#include "tree/manifest.h"

#include <sys/sysmacros.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "hash/blake3.h"
#include "hash/content_digest.h"
#include "io/directory.h"
#include "tree/scan.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

// Bits of an entry's first byte.
constexpr uint8_t kHasDigest = 1 << 0;       // the content digest follows
constexpr uint8_t kFollower = 1 << 1;        // a further hard link
constexpr uint8_t kNewAttributes = 1 << 2;   // attributes not used before
constexpr uint8_t kSameAttributes = 1 << 3;  // those of the entry before
constexpr uint8_t kSameMtime = 1 << 4;       // that of the entry before
constexpr uint8_t kAllFlags = (1 << 5) - 1;

constexpr size_t kMaxXattrsPerEntry = 4096;
constexpr size_t kPieceBytes = 256 << 10;

uint64_t zigzag(int64_t value) {
  return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
}

int64_t unzigzag(uint64_t value) {
  return static_cast<int64_t>((value >> 1) ^ (~(value & 1) + 1));
}

ByteSpan asBytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string_view asText(ByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Error corrupt(const char* what) {
  return Error{Code::kCorrupt, std::string("manifest: ") + what, 0};
}

bool isKnownType(uint32_t mode) {
  return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode) || S_ISCHR(mode) || S_ISBLK(mode) || S_ISFIFO(mode);
}

}  // namespace

ManifestEncoder::ManifestEncoder(const Tree& tree, bool withDigests)
    : tree_(tree),
      withDigests_(withDigests),
      attributesIndex_(tree.attributesTable().size(), kNoEntry),
      xattrsIndex_(tree.xattrTable().size(), kNoEntry) {}

bool ManifestEncoder::next(Bytes& output, size_t targetBytes) {
  while (next_ < tree_.size() && output.size() < targetBytes) encode(next_++, output);
  return next_ < tree_.size();
}

void ManifestEncoder::encode(uint32_t index, Bytes& output) {
  Writer writer(output);
  const bool first = index == 0;
  const Entry before = std::exchange(before_, tree_.entry(index));
  const Entry& entry = before_;
  const Attributes& attributes = tree_.attributesTable()[entry.attributes];
  const Digest* digest = withDigests_ && S_ISREG(attributes.mode) ? tree_.digest(index) : nullptr;
  const bool follower = entry.leader != kNoEntry;
  uint8_t flags = 0;
  if (follower) {
    flags = kFollower;
  } else {
    if (digest != nullptr) flags |= kHasDigest;
    if (!first && before.attributes == entry.attributes) {
      flags |= kSameAttributes;
    } else if (attributesIndex_[entry.attributes] == kNoEntry) {
      flags |= kNewAttributes;
    }
    if (!first && before.mtimeSeconds == entry.mtimeSeconds && before.mtimeNanoseconds == entry.mtimeNanoseconds) {
      flags |= kSameMtime;
    }
  }
  writer.u8(flags);
  if (!first) {
    writer.varint(static_cast<uint64_t>(before.depth) + 1 - entry.depth);
    // Names share their beginning with the sibling before, which sorts right in front.
    const std::string_view name = tree_.name(index);
    size_t shared = 0;
    lastSibling_.resize(std::min<size_t>(lastSibling_.size(), entry.depth + 1u));
    if (lastSibling_.size() == entry.depth + 1u) {
      const std::string_view sibling = tree_.name(lastSibling_[entry.depth]);
      shared = static_cast<size_t>(std::mismatch(name.begin(), name.end(), sibling.begin(), sibling.end()).first -
                                   name.begin());
    } else {
      lastSibling_.resize(entry.depth + 1u);
    }
    lastSibling_[entry.depth] = index;
    writer.varint(shared);
    writer.bytes(asBytes(name.substr(shared)));
  }
  if (follower) {
    writer.varint(index - entry.leader);
    return;
  }
  if (!(flags & kSameAttributes)) {
    if (flags & kNewAttributes) {
      attributesIndex_[entry.attributes] = attributesCount_++;
      writer.varint(attributes.mode);
      writer.varint(attributes.uid);
      writer.varint(attributes.gid);
      uint32_t& list = xattrsIndex_[attributes.xattrs];
      if (list != kNoEntry) {
        writer.varint(list);
      } else {
        list = xattrsCount_++;
        writer.varint(list);
        const XattrList& xattrs = tree_.xattrTable()[attributes.xattrs];
        writer.varint(xattrs.size());
        for (const Xattr& xattr : xattrs) {
          writer.bytes(asBytes(xattr.name));
          writer.bytes(asBytes(xattr.value));
        }
      }
    } else {
      writer.varint(attributesIndex_[entry.attributes]);
    }
  }
  if (!(flags & kSameMtime)) {
    // Wraps around rather than overflows; the reader wraps back.
    const uint64_t base = first ? 0 : static_cast<uint64_t>(before.mtimeSeconds);
    writer.varint(zigzag(static_cast<int64_t>(static_cast<uint64_t>(entry.mtimeSeconds) - base)));
    writer.varint(entry.mtimeNanoseconds);
  }
  if (S_ISREG(attributes.mode)) {
    writer.varint(entry.value);
    if (digest != nullptr) writer.raw(*digest);
  } else if (S_ISLNK(attributes.mode)) {
    writer.bytes(asBytes(tree_.target(index)));
  } else if (S_ISCHR(attributes.mode) || S_ISBLK(attributes.mode)) {
    writer.varint(gnu_dev_major(entry.value));
    writer.varint(gnu_dev_minor(entry.value));
  }
}

ManifestDecoder::ManifestDecoder() = default;

Status ManifestDecoder::feed(ByteSpan piece) {
  Reader reader(piece);
  while (reader.remaining() > 0) DH_CHECK(decode(reader));
  return {};
}

Result<Tree> ManifestDecoder::finish(uint64_t announcedEntries) {
  if (tree_.size() == 0) return corrupt("no root");
  if (tree_.size() != announcedEntries) return corrupt("number of entries");
  return std::move(tree_);
}

Status ManifestDecoder::decode(Reader& reader) {
  const uint32_t index = tree_.size();
  DH_TRY(const uint8_t flags, reader.u8());
  if ((flags & ~kAllFlags) != 0) return corrupt("unknown flag");
  Entry entry;
  std::string name;
  if (index > 0) {
    const Entry before = tree_.entry(index - 1);
    // How many levels up from inside the entry before; never above the root's children.
    DH_TRY(const uint64_t up, reader.varint(before.depth));
    entry.depth = static_cast<uint16_t>(before.depth + 1u - up);
    if (entry.depth > kMaxTreeDepth) return Error{Code::kLimit, "depth of a tree", 0};
    if (up == 0 && !tree_.isDirectory(index - 1)) return corrupt("an entry beneath something that is no directory");
    if (up == 0) {
      parents_.resize(entry.depth);
      parents_[entry.depth - 1u] = index - 1;
    }
    entry.parent = parents_[entry.depth - 1u];
    lastSibling_.resize(std::min<size_t>(lastSibling_.size(), entry.depth + 1u));
    const bool hasSibling = lastSibling_.size() == entry.depth + 1u;
    const std::string_view sibling = hasSibling ? tree_.name(lastSibling_[entry.depth]) : std::string_view();
    DH_TRY(const uint64_t shared, reader.varint(sibling.size()));
    DH_TRY(const ByteSpan rest, reader.bytes(kMaxNameBytes));
    name = sibling.substr(0, static_cast<size_t>(shared));
    name += asText(rest);
    if (!isSafeName(name)) return Error{Code::kUnsafePath, "manifest: a name that no entry may have", 0};
    if (entry.depth == 1 && name == kPartialDirectory) {
      return Error{Code::kUnsafePath, "manifest: the reserved name at the root", 0};
    }
    if (hasSibling && name.compare(sibling) <= 0) return corrupt("names out of order");
    lastSibling_.resize(entry.depth + 1u);
    lastSibling_[entry.depth] = index;
  }
  if (flags & kFollower) {
    if (flags != kFollower || index == 0) return corrupt("flags of a hard link");
    DH_TRY(const uint64_t distance, reader.varint(index));
    if (distance == 0) return corrupt("a hard link to itself");
    const auto leader = static_cast<uint32_t>(index - distance);
    if (tree_.isDirectory(leader) || tree_.isFollower(leader)) return corrupt("a hard link to what cannot be linked");
    const Entry first = tree_.entry(leader);
    entry.leader = leader;
    entry.attributes = first.attributes;
    entry.mtimeSeconds = first.mtimeSeconds;
    entry.mtimeNanoseconds = first.mtimeNanoseconds;
    entry.value = first.value;
    return tree_.append(name, entry).ok() ? Status() : Status(Error{Code::kLimit, "size of a tree", 0});
  }
  if (flags & kSameAttributes) {
    if (index == 0 || (flags & kNewAttributes)) return corrupt("attributes");
    entry.attributes = tree_.entry(index - 1).attributes;
  } else if (flags & kNewAttributes) {
    DH_TRY(entry.attributes, readAttributes(reader));
  } else {
    if (attributes_.empty()) return corrupt("attributes");
    DH_TRY(const uint64_t known, reader.varint(attributes_.size() - 1));
    entry.attributes = attributes_[known];
  }
  if (flags & kSameMtime) {
    if (index == 0) return corrupt("mtime");
    const Entry before = tree_.entry(index - 1);
    entry.mtimeSeconds = before.mtimeSeconds;
    entry.mtimeNanoseconds = before.mtimeNanoseconds;
  } else {
    DH_TRY(const uint64_t seconds, reader.varint());
    DH_TRY(const uint64_t nanoseconds, reader.varint(999'999'999));
    const uint64_t base = index > 0 ? static_cast<uint64_t>(tree_.entry(index - 1).mtimeSeconds) : 0;
    entry.mtimeSeconds = static_cast<int64_t>(base + static_cast<uint64_t>(unzigzag(seconds)));
    entry.mtimeNanoseconds = static_cast<uint32_t>(nanoseconds);
  }
  const uint32_t mode = tree_.attributesTable()[entry.attributes].mode;
  if (index == 0 && !S_ISDIR(mode)) return corrupt("the root is no directory");
  if ((flags & kHasDigest) && !S_ISREG(mode)) return corrupt("a digest of what has no content");
  if (S_ISREG(mode)) {
    DH_TRY(entry.value, reader.varint(kMaxFileBytes));
  } else if (S_ISLNK(mode)) {
    DH_TRY(const ByteSpan target, reader.bytes(kMaxTargetBytes));
    if (target.empty() || std::find(target.begin(), target.end(), 0) != target.end()) return corrupt("symlink target");
    DH_TRY(entry.value, tree_.addTarget(std::string(asText(target))));
  } else if (S_ISCHR(mode) || S_ISBLK(mode)) {
    DH_TRY(const uint64_t major, reader.varint(UINT32_MAX));
    DH_TRY(const uint64_t minor, reader.varint(UINT32_MAX));
    entry.value = gnu_dev_makedev(static_cast<unsigned>(major), static_cast<unsigned>(minor));
  }
  DH_CHECK(tree_.append(name, entry));
  if (flags & kHasDigest) {
    DH_TRY(const ByteSpan bytes, reader.take(sizeof(Digest)));
    Digest digest;
    std::copy(bytes.begin(), bytes.end(), digest.begin());
    tree_.setDigest(index, digest);
  }
  return {};
}

Result<uint32_t> ManifestDecoder::readAttributes(Reader& reader) {
  Attributes attributes;
  DH_TRY(const uint64_t mode, reader.varint(UINT16_MAX));
  DH_TRY(const uint64_t uid, reader.varint(UINT32_MAX));
  DH_TRY(const uint64_t gid, reader.varint(UINT32_MAX));
  attributes.mode = static_cast<uint32_t>(mode);
  attributes.uid = static_cast<uint32_t>(uid);
  attributes.gid = static_cast<uint32_t>(gid);
  if (!isKnownType(attributes.mode)) return Error{Code::kUnsupported, "manifest: a kind of file that is not known", 0};
  DH_TRY(const uint64_t list, reader.varint(xattrs_.size()));
  if (list == xattrs_.size()) {
    DH_TRY(attributes.xattrs, readXattrs(reader));
    xattrs_.push_back(attributes.xattrs);
  } else {
    attributes.xattrs = xattrs_[list];
  }
  if (attributes_.size() >= kMaxTreeEntries) return Error{Code::kLimit, "attributes of a tree", 0};
  DH_TRY(const uint32_t index, tree_.internAttributes(attributes));
  attributes_.push_back(index);
  return index;
}

Result<uint32_t> ManifestDecoder::readXattrs(Reader& reader) {
  DH_TRY(const uint64_t count, reader.varint(kMaxXattrsPerEntry));
  XattrList list;
  size_t total = 0;
  for (uint64_t i = 0; i < count; ++i) {
    DH_TRY(const ByteSpan name, reader.bytes(kMaxNameBytes));
    DH_TRY(const ByteSpan value, reader.bytes(kMaxXattrValueBytes));
    total += name.size() + value.size();
    if (total > kMaxXattrListBytes) return Error{Code::kLimit, "extended attributes of one entry", 0};
    if (name.empty() || std::find(name.begin(), name.end(), 0) != name.end()) return corrupt("attribute name");
    if (!list.empty() && list.back().name.compare(asText(name)) >= 0) return corrupt("attribute names out of order");
    list.push_back(Xattr{std::string(asText(name)), std::string(asText(value))});
  }
  return tree_.internXattrs(list);
}

Digest manifestDigest(const Tree& tree, bool withDigests) {
  Blake3 hasher;
  ManifestEncoder encoder(tree, withDigests);
  Bytes piece;
  for (bool more = true; more;) {
    piece.clear();
    more = encoder.next(piece, kPieceBytes);
    hasher.update(piece);
  }
  return hasher.finish();
}

}  // namespace deltahop
