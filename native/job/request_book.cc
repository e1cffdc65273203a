#include "job/request_book.h"

#include <algorithm>
#include <utility>

#include "job/shared_basis.h"
#include "signature/signature.h"

namespace deltahop {
namespace {

// What there is of a basis, opened.
struct Parts {
  std::vector<File> files;
  Overlay overlay;
  uint64_t bytes = 0;
};

// Not the journal of another file that was there, nor one that is no good.
Result<Overlay> openOverlay(TreeInMaking& tree, const std::string& name, const File& live) {
  DH_TRY(File file, tree.partial.read(name));
  const FileStorage storage(file);
  DH_TRY(PatchJournal journal, PatchJournal::read(storage));
  DH_TRY(const PatchTarget target, patchTarget(live, journal.target().path));
  if (!target.sameFile(journal.target())) return Error{Code::kChanged, "a journal of another file"};
  return Overlay{std::move(file), journal.extents()};
}

Result<Parts> openParts(TreeInMaking& tree, ParentCache& parents, uint32_t index, BasisChoice& choice) {
  Parts parts;
  const auto take = [&](Result<File> file) {
    if (!file.ok()) return false;
    const auto size = file.value().size();
    if (!size.ok()) return false;
    parts.bytes += size.value();
    parts.files.push_back(std::move(file).value());
    return true;
  };
  if (choice.live) {
    DH_TRY(const Directory* parent, parents.parentOf(index));
    choice.live = take(parent->openRegular(std::string(tree.wanted.name(index))));
  }
  if (choice.offered != kNoEntry) {
    ParentCache ownParents(tree.root, tree.own);
    const auto parent = ownParents.parentOf(choice.offered);
    const bool taken = parent.ok() && take(parent.value()->openRegular(std::string(tree.own.name(choice.offered))));
    if (!taken) choice.offered = kNoEntry;
  }
  if (choice.live && !choice.journal.empty()) {
    auto overlay = openOverlay(tree, choice.journal, parts.files.front());
    if (overlay.ok() && !overlay.value().extents.empty()) {
      parts.bytes = std::max(parts.bytes, overlay.value().end());
      parts.overlay = std::move(overlay).value();
    }
  }
  std::erase_if(choice.leftOvers, [&](const std::string& name) { return !take(tree.partial.read(name)); });
  return parts;
}

BasisChoice withoutBasis() {
  BasisChoice none;
  none.blockBytes = kMinBlockBytes;
  return none;
}

}  // namespace

Result<Basis> chooseBasis(TreeInMaking& tree, ParentCache& parents, uint32_t index, BasisChoice& choice) {
  const uint32_t partner = tree.plan.partners[index];
  choice.live = partner != kNoEntry && tree.own.isRegular(partner) && tree.own.fileBytes(partner) > 0;
  choice.leftOvers = tree.partial.leftOvers(tree.wanted.path(index));
  choice.journal = tree.partial.leftJournal(tree.wanted.path(index));
  DH_TRY(Parts parts, openParts(tree, parents, index, choice));
  if (parts.files.empty()) {
    choice.blockBytes = kMinBlockBytes;
    return Basis();
  }
  // What a cut transfer has left is larger a basis, and must be found by blocks no larger than those that made it.
  const bool fine = isPaged(tree.wanted.fileBytes(index), parts.bytes) || !choice.leftOvers.empty();
  choice.blockBytes = fine ? chooseBlockBytes(parts.bytes) : chooseRootBlockBytes(parts.bytes);
  DH_TRY(Basis basis, Basis::make(std::move(parts.files), choice.blockBytes, std::move(parts.overlay)));
  choice.bytes = basis.size();
  return basis;
}

Result<Basis> openBasis(TreeInMaking& tree, ParentCache& parents, uint32_t index, BasisChoice& choice) {
  if (choice.common) return tree.common.open();
  DH_TRY(Parts parts, openParts(tree, parents, index, choice));
  return Basis::make(std::move(parts.files), choice.blockBytes, std::move(parts.overlay));
}

void RequestBook::add(uint32_t index, BasisChoice choice) {
  const std::lock_guard lock(mutex_);
  if (choice.isNone() && choice.blockBytes == kMinBlockBytes) {
    if (index >= whole_.size()) whole_.resize(size_t{index} + 1);
    whole_[index] = true;
    ++openWhole_;
    return;
  }
  if (choice.offered != kNoEntry) ++openOffers_;
  open_.emplace(index, std::move(choice));
}

Result<BasisChoice> RequestBook::take(uint64_t index) {
  const std::lock_guard lock(mutex_);
  if (isOpenWhole(index)) {
    whole_[index] = false;
    --openWhole_;
    return withoutBasis();
  }
  const auto at = index <= UINT32_MAX ? open_.find(static_cast<uint32_t>(index)) : open_.end();
  if (at == open_.end()) return Error{Code::kProtocol, "an answer to no request", 0};
  BasisChoice choice = std::move(at->second);
  open_.erase(at);
  if (choice.offered != kNoEntry && --openOffers_ == 0) changed_.notify_all();
  return choice;
}

Result<BasisChoice> RequestBook::choiceOf(uint64_t index) const {
  const std::lock_guard lock(mutex_);
  if (isOpenWhole(index)) return withoutBasis();
  const auto at = index <= UINT32_MAX ? open_.find(static_cast<uint32_t>(index)) : open_.end();
  if (at == open_.end()) return Error{Code::kProtocol, "an answer to no request", 0};
  return at->second;
}

std::vector<uint32_t> RequestBook::takeAll() {
  const std::lock_guard lock(mutex_);
  std::vector<uint32_t> indexes;
  for (const auto& [index, choice] : open_) indexes.push_back(index);
  for (uint32_t index = 0; index < whole_.size(); ++index) {
    if (whole_[index]) indexes.push_back(index);
  }
  open_.clear();
  whole_.clear();
  openWhole_ = 0;
  std::sort(indexes.begin(), indexes.end());
  return indexes;
}

bool RequestBook::isEmpty() const {
  const std::lock_guard lock(mutex_);
  return open_.empty() && openWhole_ == 0 && differing_.empty();
}

Status RequestBook::differs(uint64_t index) {
  const std::lock_guard lock(mutex_);
  const auto at = index <= UINT32_MAX ? open_.find(static_cast<uint32_t>(index)) : open_.end();
  if (at == open_.end() || at->second.offered == kNoEntry) {
    return Error{Code::kProtocol, "an answer to no offer", 0};
  }
  open_.erase(at);
  --openOffers_;
  differing_.push_back(static_cast<uint32_t>(index));
  changed_.notify_all();
  return {};
}

bool RequestBook::hasDiffering() const {
  const std::lock_guard lock(mutex_);
  return !differing_.empty();
}

std::optional<uint32_t> RequestBook::takeDiffering() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !differing_.empty() || openOffers_ == 0 || closed_; });
  if (differing_.empty() || closed_) return std::nullopt;
  const uint32_t index = differing_.front();
  differing_.pop_front();
  return index;
}

void RequestBook::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

}  // namespace deltahop
