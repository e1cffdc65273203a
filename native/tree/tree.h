// The manifest in memory: every entry of a tree with all its metadata, compact enough for millions of entries.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "tree/entry_block.h"

namespace deltahop {

/// One extended attribute: full name ("security.capability") and value, which may be any bytes.
struct Xattr {
  std::string name;
  std::string value;
  bool operator==(const Xattr&) const = default;
};

/// The extended attributes of one entry, sorted by name, names unique.
using XattrList = std::vector<Xattr>;

/// What many entries of a tree have in common, so it is kept once.
struct Attributes {
  uint32_t mode = 0;  // st_mode: file type and permissions
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t xattrs = 0;  // index of the tree's attribute lists; 0 is the empty one
  bool operator==(const Attributes&) const = default;
};

// Bounds of a tree, on the wire and in memory alike.
inline constexpr uint32_t kMaxTreeEntries = 1u << 23;
inline constexpr size_t kMaxTreeNamesBytes = size_t{512} << 20;
inline constexpr size_t kMaxTreeTargetsBytes = size_t{128} << 20;
inline constexpr size_t kMaxTreeXattrsBytes = size_t{128} << 20;
inline constexpr uint32_t kMaxTreeDepth = 1024;
inline constexpr size_t kMaxTargetBytes = 4095;
inline constexpr size_t kMaxXattrValueBytes = 64 << 10;
inline constexpr size_t kMaxXattrListBytes = 512 << 10;

/// Entries in depth-first order, siblings sorted byte-wise by name; entry 0 is the root directory, with an empty name.
/// A parent stands before its children, a leader before its followers.
class Tree {
 public:
  Tree();

  uint32_t size() const { return packed() + static_cast<uint32_t>(entries_.size()); }
  Entry entry(uint32_t index) const {
    return index < packed() ? blockOf(index).entry(index % kBlockEntries) : entries_[index - packed()];
  }
  uint32_t parent(uint32_t index) const {
    return index < packed() ? blockOf(index).parent(index % kBlockEntries) : entries_[index - packed()].parent;
  }
  uint16_t depth(uint32_t index) const {
    return index < packed() ? blockOf(index).depth(index % kBlockEntries) : entries_[index - packed()].depth;
  }
  const Attributes& attributes(uint32_t index) const {
    return attributes_[index < packed() ? blockOf(index).attributes(index % kBlockEntries)
                                        : entries_[index - packed()].attributes];
  }
  const XattrList& xattrs(uint32_t index) const { return xattrLists_[attributes(index).xattrs]; }
  std::string_view name(uint32_t index) const;
  /// From the root, components joined by '/'; empty for the root itself.
  std::string path(uint32_t index) const;
  const std::string& target(uint32_t index) const { return targets_[value(index)]; }
  /// The content digest of a regular file, if known.
  const Digest* digest(uint32_t index) const;
  /// The first index behind everything that is beneath `index`.
  uint32_t subtreeEnd(uint32_t index) const;

  uint32_t mode(uint32_t index) const { return attributes(index).mode; }
  bool isDirectory(uint32_t index) const { return S_ISDIR(mode(index)); }
  bool isRegular(uint32_t index) const { return S_ISREG(mode(index)); }
  bool isSymlink(uint32_t index) const { return S_ISLNK(mode(index)); }
  bool isDevice(uint32_t index) const { return S_ISCHR(mode(index)) || S_ISBLK(mode(index)); }
  /// An overlay whiteout: a character device 0:0.
  bool isWhiteout(uint32_t index) const { return S_ISCHR(mode(index)) && value(index) == 0; }
  bool isFollower(uint32_t index) const {
    return kNoEntry !=
           (index < packed() ? blockOf(index).leader(index % kBlockEntries) : entries_[index - packed()].leader);
  }
  uint64_t fileBytes(uint32_t index) const { return isRegular(index) ? value(index) : 0; }

  /// Sum of the regular files' bytes and their number, hard links counted once.
  uint64_t totalBytes() const { return totalBytes_; }
  uint64_t totalFiles() const { return totalFiles_; }

  // Tables, for those who write or read a manifest.
  const std::vector<Attributes>& attributesTable() const { return attributes_; }
  const std::vector<XattrList>& xattrTable() const { return xattrLists_; }
  /// Index of these attributes in the table, added if new.
  Result<uint32_t> internAttributes(const Attributes& attributes);
  /// Index of this list in the table, added if new. kLimit when the tree holds too many bytes of them.
  Result<uint32_t> internXattrs(const XattrList& xattrs);
  /// Index of a symlink's target, to be the entry's value.
  Result<uint32_t> addTarget(std::string target);
  /// Adds an entry behind all others. The caller keeps the order.
  Result<uint32_t> append(std::string_view name, Entry entry);
  void setDigest(uint32_t index, const Digest& digest);
  /// Gives the last entry another name. The caller keeps the order.
  Status renameLast(std::string_view name);

 private:
  static constexpr uint32_t kBlockEntries = 256;

  uint32_t packed() const { return static_cast<uint32_t>(blocks_.size()) * kBlockEntries; }
  const EntryBlock& blockOf(uint32_t index) const { return blocks_[index / kBlockEntries]; }
  uint64_t value(uint32_t index) const {
    return index < packed() ? blockOf(index).value(index % kBlockEntries) : entries_[index - packed()].value;
  }

  std::vector<EntryBlock> blocks_;
  // Those behind the blocks: less than fill one.
  std::vector<Entry> entries_;
  std::string names_;
  std::vector<uint32_t> nameEnds_;
  size_t namesBytes_ = 0;  // of all
  std::vector<std::string> targets_;
  std::vector<Digest> digests_;
  std::vector<uint32_t> digestOf_;  // by entry, as far as there are any: index of the digest, or kNoEntry
  std::vector<Attributes> attributes_;
  std::vector<XattrList> xattrLists_;
  std::unordered_map<std::string, uint32_t> attributesIndex_;
  std::unordered_map<std::string, uint32_t> xattrIndex_;
  size_t targetsBytes_ = 0;
  size_t xattrsBytes_ = 0;
  uint64_t totalBytes_ = 0;
  uint64_t totalFiles_ = 0;
};

/// Same type, permissions, owner, extended attributes and (except for the root of an overlay, which callers treat
/// themselves) mtime; for files the size, for links the target, for devices the number. Content is not looked at.
bool sameMetadata(const Tree& left, uint32_t leftIndex, const Tree& right, uint32_t rightIndex);

/// One step of a walk through two trees side by side, in the order of the manifest. An index is kNoEntry where only the
/// other tree has the path.
struct Pair {
  uint32_t left = kNoEntry;
  uint32_t right = kNoEntry;
};

/// Pairs the entries of two trees by path.
class PairWalk {
 public:
  PairWalk(const Tree& left, const Tree& right) : left_(left), right_(right) {}
  /// The next pair, or none at the end.
  std::optional<Pair> next();

 private:
  const Tree& left_;
  const Tree& right_;
  uint32_t leftAt_ = 0;
  uint32_t rightAt_ = 0;
  // While inside a subtree that only one side has, its end.
  uint32_t leftAloneUntil_ = 0;
  uint32_t rightAloneUntil_ = 0;
};

}  // namespace deltahop
