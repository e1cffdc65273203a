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

inline constexpr uint32_t kNoEntry = UINT32_MAX;

// Bounds of a tree, on the wire and in memory alike.
inline constexpr uint32_t kMaxTreeEntries = 1u << 23;
inline constexpr size_t kMaxTreeNamesBytes = size_t{512} << 20;
inline constexpr size_t kMaxTreeTargetsBytes = size_t{128} << 20;
inline constexpr size_t kMaxTreeXattrsBytes = size_t{128} << 20;
inline constexpr uint32_t kMaxTreeDepth = 1024;
inline constexpr size_t kMaxTargetBytes = 4095;
inline constexpr size_t kMaxXattrValueBytes = 64 << 10;
inline constexpr size_t kMaxXattrListBytes = 512 << 10;

/// One entry; its texts and tables are the Tree's.
struct Entry {
  int64_t mtimeSeconds = 0;
  uint64_t value = 0;  // regular file: bytes; device: dev_t; symlink: index of its target; else 0
  uint32_t mtimeNanoseconds = 0;
  uint32_t parent = kNoEntry;
  uint32_t nameOffset = 0;
  uint32_t attributes = 0;
  uint32_t leader = kNoEntry;  // the earlier entry of which this one is a further hard link
  uint32_t digest = kNoEntry;  // index of the content digest, if the tree carries one
  uint16_t nameBytes = 0;
  uint16_t depth = 0;  // 0 is the root itself
};

/// Entries in depth-first order, siblings sorted byte-wise by name; entry 0 is the root directory, with an empty name.
/// A parent stands before its children, a leader before its followers.
class Tree {
 public:
  Tree();

  uint32_t size() const { return static_cast<uint32_t>(entries_.size()); }
  const Entry& entry(uint32_t index) const { return entries_[index]; }
  const Attributes& attributes(uint32_t index) const { return attributes_[entries_[index].attributes]; }
  const XattrList& xattrs(uint32_t index) const { return xattrLists_[attributes(index).xattrs]; }
  std::string_view name(uint32_t index) const;
  /// From the root, components joined by '/'; empty for the root itself.
  std::string path(uint32_t index) const;
  const std::string& target(uint32_t index) const { return targets_[entries_[index].value]; }
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
  bool isWhiteout(uint32_t index) const { return S_ISCHR(mode(index)) && entry(index).value == 0; }
  bool isFollower(uint32_t index) const { return entry(index).leader != kNoEntry; }
  uint64_t fileBytes(uint32_t index) const { return isRegular(index) ? entry(index).value : 0; }

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
  /// Adds an entry behind all others. The caller keeps the order; nameOffset and nameBytes are filled in here.
  Result<uint32_t> append(std::string_view name, Entry entry);
  void setDigest(uint32_t index, const Digest& digest);
  /// Gives an entry another name. The caller keeps the order.
  Status rename(uint32_t index, std::string_view name);

 private:
  std::vector<Entry> entries_;
  std::vector<char> names_;
  std::vector<std::string> targets_;
  std::vector<Digest> digests_;
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
