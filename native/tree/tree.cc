#include "tree/tree.h"

#include <algorithm>
#include <cstring>

namespace deltahop {

Tree::Tree() {
  xattrLists_.emplace_back();
  xattrIndex_.emplace(std::string(), 0);
}

std::string_view Tree::name(uint32_t index) const {
  if (index < packed()) return blockOf(index).name(index % kBlockEntries);
  const uint32_t at = index - packed();
  const uint32_t begin = at > 0 ? nameEnds_[at - 1] : 0;
  return std::string_view(names_).substr(begin, nameEnds_[at] - begin);
}

std::string Tree::path(uint32_t index) const {
  size_t length = 0;
  for (uint32_t at = index; depth(at) > 0; at = parent(at)) length += name(at).size() + 1u;
  if (length == 0) return {};
  std::string path(length - 1, '/');
  size_t end = path.size();
  for (uint32_t at = index; depth(at) > 0; at = parent(at)) {
    const std::string_view part = name(at);
    end -= part.size();
    std::memcpy(path.data() + end, part.data(), part.size());
    if (end > 0) --end;
  }
  return path;
}

const Digest* Tree::digest(uint32_t index) const {
  if (index >= digestOf_.size() || digestOf_[index] == kNoEntry) return nullptr;
  return &digests_[digestOf_[index]];
}

uint32_t Tree::subtreeEnd(uint32_t index) const {
  const uint16_t above = depth(index);
  uint32_t end = index + 1;
  while (end < size() && depth(end) > above) ++end;
  return end;
}

Result<uint32_t> Tree::internAttributes(const Attributes& attributes) {
  static_assert(sizeof(Attributes) == 16, "no padding, so that the bytes are the key");
  std::string key(reinterpret_cast<const char*>(&attributes), sizeof attributes);
  const auto [at, added] = attributesIndex_.try_emplace(std::move(key), static_cast<uint32_t>(attributes_.size()));
  if (added) attributes_.push_back(attributes);
  return at->second;
}

Result<uint32_t> Tree::internXattrs(const XattrList& xattrs) {
  std::string key;
  for (const Xattr& xattr : xattrs) {
    // NUL ends a name and the length stands in front of the value, so no two lists have the same key.
    key += xattr.name;
    key += '\0';
    const auto length = static_cast<uint32_t>(xattr.value.size());
    key.append(reinterpret_cast<const char*>(&length), sizeof length);
    key += xattr.value;
  }
  if (key.size() > kMaxXattrListBytes) return Error{Code::kLimit, "extended attributes of one entry", 0};
  const auto found = xattrIndex_.find(key);
  if (found != xattrIndex_.end()) return found->second;
  xattrsBytes_ += key.size();
  if (xattrsBytes_ > kMaxTreeXattrsBytes) return Error{Code::kLimit, "extended attributes of a tree", 0};
  const auto index = static_cast<uint32_t>(xattrLists_.size());
  xattrIndex_.emplace(std::move(key), index);
  xattrLists_.push_back(xattrs);
  return index;
}

Result<uint32_t> Tree::addTarget(std::string target) {
  targetsBytes_ += target.size();
  if (target.size() > kMaxTargetBytes || targetsBytes_ > kMaxTreeTargetsBytes) {
    return Error{Code::kLimit, "symlink targets", 0};
  }
  targets_.push_back(std::move(target));
  return static_cast<uint32_t>(targets_.size() - 1);
}

Result<uint32_t> Tree::append(std::string_view name, Entry entry) {
  if (size() >= kMaxTreeEntries) return Error{Code::kLimit, "entries of a tree", 0};
  if (namesBytes_ + name.size() > kMaxTreeNamesBytes) return Error{Code::kLimit, "names of a tree", 0};
  if (entry.leader == kNoEntry && S_ISREG(attributes_[entry.attributes].mode)) {
    if (__builtin_add_overflow(totalBytes_, entry.value, &totalBytes_)) return Error{Code::kLimit, "size of a tree", 0};
    ++totalFiles_;
  }
  // Not before there is one more, so that the last one can have another name.
  if (entries_.size() == kBlockEntries) {
    blocks_.emplace_back(entries_, names_, nameEnds_);
    entries_.clear();
    names_.clear();
    nameEnds_.clear();
  }
  namesBytes_ += name.size();
  names_ += name;
  nameEnds_.push_back(static_cast<uint32_t>(names_.size()));
  entries_.push_back(entry);
  return size() - 1;
}

void Tree::setDigest(uint32_t index, const Digest& digest) {
  if (index >= digestOf_.size()) digestOf_.resize(size_t{index} + 1, kNoEntry);
  uint32_t& at = digestOf_[index];
  if (at != kNoEntry) {
    digests_[at] = digest;
    return;
  }
  at = static_cast<uint32_t>(digests_.size());
  digests_.push_back(digest);
}

Status Tree::renameLast(std::string_view name) {
  const size_t before = this->name(size() - 1).size();
  if (namesBytes_ - before + name.size() > kMaxTreeNamesBytes) return Error{Code::kLimit, "names of a tree", 0};
  namesBytes_ += name.size() - before;
  names_.replace(names_.size() - before, before, name);
  nameEnds_.back() = static_cast<uint32_t>(names_.size());
  return {};
}

bool sameMetadata(const Tree& left, uint32_t leftIndex, const Tree& right, uint32_t rightIndex) {
  const Entry a = left.entry(leftIndex);
  const Entry b = right.entry(rightIndex);
  const Attributes& attributesA = left.attributesTable()[a.attributes];
  const Attributes& attributesB = right.attributesTable()[b.attributes];
  if (attributesA.mode != attributesB.mode || attributesA.uid != attributesB.uid ||
      attributesA.gid != attributesB.gid) {
    return false;
  }
  if (a.mtimeSeconds != b.mtimeSeconds || a.mtimeNanoseconds != b.mtimeNanoseconds) return false;
  if (left.xattrTable()[attributesA.xattrs] != right.xattrTable()[attributesB.xattrs]) return false;
  if (S_ISLNK(attributesA.mode)) return left.target(leftIndex) == right.target(rightIndex);
  return a.value == b.value;
}

std::optional<Pair> PairWalk::next() {
  if (leftAt_ < leftAloneUntil_) return Pair{leftAt_++, kNoEntry};
  if (rightAt_ < rightAloneUntil_) return Pair{kNoEntry, rightAt_++};
  const bool leftMore = leftAt_ < left_.size();
  const bool rightMore = rightAt_ < right_.size();
  if (!leftMore && !rightMore) return std::nullopt;
  // Outside one-sided subtrees both sides stand in directories that both have, so depth and name decide: whoever is
  // deeper is still inside a directory that the other has left.
  int order = 0;
  if (!leftMore || !rightMore) {
    order = leftMore ? -1 : 1;
  } else {
    const uint16_t leftDepth = left_.depth(leftAt_);
    const uint16_t rightDepth = right_.depth(rightAt_);
    order = leftDepth != rightDepth ? (leftDepth > rightDepth ? -1 : 1)
                                    : left_.name(leftAt_).compare(right_.name(rightAt_));
  }
  if (order < 0) {
    leftAloneUntil_ = left_.subtreeEnd(leftAt_);
    return Pair{leftAt_++, kNoEntry};
  }
  if (order > 0) {
    rightAloneUntil_ = right_.subtreeEnd(rightAt_);
    return Pair{kNoEntry, rightAt_++};
  }
  const Pair pair{leftAt_++, rightAt_++};
  // A directory on one side only: what is beneath it has no partner.
  if (!left_.isDirectory(pair.left) || !right_.isDirectory(pair.right)) {
    leftAloneUntil_ = left_.subtreeEnd(pair.left);
    rightAloneUntil_ = right_.subtreeEnd(pair.right);
  }
  return pair;
}

}  // namespace deltahop
