#include "tree/overlay_diff.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

namespace deltahop {
namespace {

constexpr size_t kCompareBytes = 256 << 10;

class Differ {
 public:
  Differ(const Directory& baseRoot, const Tree& base, const Directory& fullRoot, const Tree& full,
         const CancelCheck& cancelled)
      : base_(base),
        full_(full),
        baseParents_(baseRoot, base),
        fullParents_(fullRoot, full),
        cancelled_(cancelled),
        wanted_(full.size(), false),
        opaque_(full.size(), false),
        partner_(full.size(), kNoEntry) {}

  Result<Tree> run() {
    DH_CHECK(pairUp());
    DH_CHECK(findChanged());
    keepLinksTogether();
    findOpaque();
    for (uint32_t index = full_.size(); index-- > 1;) {
      if (wanted_[index]) wanted_[full_.parent(index)] = true;
    }
    wanted_[0] = true;
    return build();
  }

 private:
  Status pairUp() {
    PairWalk walk(base_, full_);
    while (const auto pair = walk.next()) {
      if (pair->right != kNoEntry) {
        if (full_.isWhiteout(pair->right)) {
          return Error{Code::kUnsupported, full_.path(pair->right) + ": a whiteout cannot be part of an overlay", 0};
        }
        partner_[pair->right] = pair->left;
        if (pair->left != kNoEntry && base_.isDirectory(pair->left) && full_.isDirectory(pair->right)) {
          partnerOfBase_.emplace_back(pair->left, pair->right);
        }
        continue;
      }
      // Only the topmost deleted entry, and only where its directory is still one, needs a whiteout.
      const uint32_t parent = base_.entry(pair->left).parent;
      const auto at = std::lower_bound(partnerOfBase_.begin(), partnerOfBase_.end(), parent,
                                       [](const auto& known, uint32_t value) { return known.first < value; });
      if (at != partnerOfBase_.end() && at->first == parent) deleted_[at->second].push_back(pair->left);
    }
    return {};
  }

  Status findChanged() {
    for (uint32_t index = 0; index < full_.size(); ++index) {
      if (cancelled_ && cancelled_()) return Error{Code::kCancelled, "compare", 0};
      const uint32_t other = partner_[index];
      if (other == kNoEntry || !sameMetadata(base_, other, full_, index)) {
        wanted_[index] = true;
      } else if (full_.isRegular(index) && !full_.isFollower(index)) {
        DH_TRY(const bool same, sameContent(other, index));
        wanted_[index] = !same;
      }
    }
    return {};
  }

  // An unchanged group of links has the same names in both trees. Otherwise the upper directory needs all of them: a
  // link from it into the lower one is not possible.
  void keepLinksTogether() {
    std::unordered_map<uint32_t, bool> broken;
    std::unordered_map<uint32_t, uint32_t> leaderPartner;
    const auto leaderOf = [](const Tree& tree, uint32_t index) {
      return tree.isFollower(index) ? tree.entry(index).leader : index;
    };
    std::unordered_map<uint32_t, uint32_t> claimed;  // leader in base → leader in full
    for (uint32_t index = 0; index < full_.size(); ++index) {
      if (full_.isDirectory(index)) continue;
      const uint32_t leader = leaderOf(full_, index);
      if (wanted_[index]) {
        broken[leader] = true;
        continue;
      }
      const uint32_t baseLeader = leaderOf(base_, partner_[index]);
      const auto [known, isNew] = leaderPartner.try_emplace(leader, baseLeader);
      if (!isNew && known->second != baseLeader) broken[leader] = true;
      const auto [claim, first] = claimed.try_emplace(baseLeader, leader);
      if (!first && claim->second != leader) broken[leader] = broken[claim->second] = true;
    }
    for (uint32_t index = 0; index < full_.size(); ++index) {
      if (full_.isDirectory(index)) continue;
      if (broken.contains(leaderOf(full_, index))) wanted_[index] = true;
    }
  }

  void findOpaque() {
    std::vector<bool> keeps(full_.size(), false);
    for (uint32_t index = 1; index < full_.size(); ++index) {
      if (partner_[index] != kNoEntry) keeps[full_.parent(index)] = true;
    }
    for (auto& [directory, names] : deleted_) {
      if (directory == 0 || keeps[directory]) continue;  // the root's mount would ignore it
      opaque_[directory] = true;
      wanted_[directory] = true;
      names.clear();
    }
    for (const auto& [directory, names] : deleted_) {
      if (!names.empty()) wanted_[directory] = true;
    }
  }

  Result<bool> sameContent(uint32_t baseIndex, uint32_t fullIndex) {
    DH_TRY(const Directory* baseParent, baseParents_.parentOf(baseIndex));
    DH_TRY(const File baseFile, baseParent->openRegular(std::string(base_.name(baseIndex))));
    DH_TRY(const Directory* fullParent, fullParents_.parentOf(fullIndex));
    DH_TRY(const File fullFile, fullParent->openRegular(std::string(full_.name(fullIndex))));
    left_.resize(kCompareBytes);
    right_.resize(kCompareBytes);
    for (uint64_t offset = 0;; offset += kCompareBytes) {
      if (cancelled_ && cancelled_()) return Error{Code::kCancelled, "compare", 0};
      DH_TRY(const size_t leftBytes, baseFile.readAt(offset, left_));
      DH_TRY(const size_t rightBytes, fullFile.readAt(offset, right_));
      if (leftBytes != rightBytes || !std::equal(left_.begin(), left_.begin() + leftBytes, right_.begin())) {
        return false;
      }
      if (leftBytes < kCompareBytes) return true;
    }
  }

  Result<Tree> build() {
    Tree diff;
    std::vector<uint32_t> indexOf(full_.size(), kNoEntry);
    DH_CHECK(emit(diff, indexOf));
    return diff;
  }

  // Entries and whiteouts in the order of a manifest: before each entry come the whiteouts of its directory whose names
  // sort before it; at the end of a directory come those that are left.
  Status emit(Tree& diff, std::vector<uint32_t>& indexOf) {
    std::vector<uint32_t> open;  // directories of `full` that the walk is inside of
    std::vector<size_t> emitted;
    const auto flush = [&](std::string_view before, bool all) -> Status {
      const auto at = deleted_.find(open.back());
      if (at == deleted_.end()) return {};
      const std::vector<uint32_t>& names = at->second;
      for (size_t& next = emitted.back(); next < names.size(); ++next) {
        const std::string_view name = base_.name(names[next]);
        if (!all && name.compare(before) > 0) break;
        DH_CHECK(whiteout(diff, indexOf[open.back()], name));
      }
      return {};
    };
    for (uint32_t index = 0; index < full_.size(); ++index) {
      if (!wanted_[index]) continue;
      const uint16_t depth = full_.depth(index);
      while (!open.empty() && full_.depth(open.back()) >= depth) {
        DH_CHECK(flush({}, true));
        open.pop_back();
        emitted.pop_back();
      }
      if (!open.empty()) DH_CHECK(flush(full_.name(index), false));
      DH_TRY(indexOf[index], copyEntry(diff, index, indexOf));
      if (full_.isDirectory(index)) {
        open.push_back(index);
        emitted.push_back(0);
      }
    }
    while (!open.empty()) {
      DH_CHECK(flush({}, true));
      open.pop_back();
      emitted.pop_back();
    }
    return {};
  }

  Result<uint32_t> copyEntry(Tree& diff, uint32_t index, const std::vector<uint32_t>& indexOf) {
    Entry entry = full_.entry(index);
    if (index > 0) entry.parent = indexOf[entry.parent];
    if (full_.isFollower(index)) entry.leader = indexOf[entry.leader];
    Attributes attributes = full_.attributes(index);
    XattrList xattrs = full_.xattrs(index);
    if (opaque_[index]) {
      const Xattr opaque{"trusted.overlay.opaque", "y"};
      const auto at = std::lower_bound(xattrs.begin(), xattrs.end(), opaque,
                                       [](const Xattr& a, const Xattr& b) { return a.name < b.name; });
      if (at != xattrs.end() && at->name == opaque.name) {
        *at = opaque;
      } else {
        xattrs.insert(at, opaque);
      }
    }
    DH_TRY(attributes.xattrs, diff.internXattrs(xattrs));
    DH_TRY(entry.attributes, diff.internAttributes(attributes));
    if (full_.isSymlink(index) && !full_.isFollower(index)) {
      DH_TRY(entry.value, diff.addTarget(full_.target(index)));
    } else if (full_.isSymlink(index)) {
      entry.value = diff.entry(entry.leader).value;
    }
    return diff.append(full_.name(index), entry);
  }

  Status whiteout(Tree& diff, uint32_t parent, std::string_view name) {
    Entry entry;
    entry.parent = parent;
    entry.depth = static_cast<uint16_t>(diff.depth(parent) + 1);
    DH_TRY(entry.attributes, diff.internAttributes(Attributes{S_IFCHR, 0, 0, 0}));
    DH_CHECK(diff.append(name, entry));
    return {};
  }

  const Tree& base_;
  const Tree& full_;
  ParentCache baseParents_;
  ParentCache fullParents_;
  const CancelCheck& cancelled_;
  std::vector<bool> wanted_;
  std::vector<bool> opaque_;
  std::vector<uint32_t> partner_;                                // in base, of each entry of full
  std::vector<std::pair<uint32_t, uint32_t>> partnerOfBase_;     // directories: base → full, rising
  std::unordered_map<uint32_t, std::vector<uint32_t>> deleted_;  // directory of full → entries of base, by name
  Bytes left_;
  Bytes right_;
};

}  // namespace

Result<Tree> overlayDiff(const Directory& baseRoot, const Tree& base, const Directory& fullRoot, const Tree& full,
                         const CancelCheck& cancelled) {
  return Differ(baseRoot, base, fullRoot, full, cancelled).run();
}

}  // namespace deltahop
