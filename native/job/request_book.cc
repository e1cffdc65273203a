#include "job/request_book.h"

#include <algorithm>
#include <utility>

#include "signature/signature.h"

namespace deltahop {
namespace {

Result<std::vector<File>> openFiles(TreeInMaking& tree, ParentCache& parents, uint32_t index, BasisChoice& choice,
                                    uint64_t& bytes) {
  std::vector<File> files;
  const auto take = [&](Result<File> file) {
    if (!file.ok()) return false;
    const auto size = file.value().size();
    if (!size.ok()) return false;
    bytes += size.value();
    files.push_back(std::move(file).value());
    return true;
  };
  if (choice.live) {
    DH_TRY(const Directory* parent, parents.parentOf(index));
    choice.live = take(parent->openRegular(std::string(tree.wanted.name(index))));
  }
  std::erase_if(choice.leftOvers, [&](const std::string& name) { return !take(tree.partial.read(name)); });
  return files;
}

}  // namespace

Result<Basis> chooseBasis(TreeInMaking& tree, ParentCache& parents, uint32_t index, BasisChoice& choice) {
  const uint32_t partner = tree.plan.partners[index];
  choice.live = partner != kNoEntry && tree.own.isRegular(partner) && tree.own.fileBytes(partner) > 0;
  choice.leftOvers = tree.partial.leftOvers(tree.wanted.path(index));
  uint64_t bytes = 0;
  DH_TRY(std::vector<File> files, openFiles(tree, parents, index, choice, bytes));
  choice.blockBytes = files.empty() ? kMinBlockBytes : chooseBlockBytes(bytes);
  if (files.empty()) return Basis();
  return Basis::make(std::move(files), choice.blockBytes);
}

Result<Basis> openBasis(TreeInMaking& tree, ParentCache& parents, uint32_t index, BasisChoice& choice) {
  uint64_t bytes = 0;
  DH_TRY(std::vector<File> files, openFiles(tree, parents, index, choice, bytes));
  return Basis::make(std::move(files), choice.blockBytes);
}

void RequestBook::add(uint32_t index, BasisChoice choice) {
  const std::lock_guard lock(mutex_);
  open_.emplace(index, std::move(choice));
}

Result<BasisChoice> RequestBook::take(uint64_t index) {
  const std::lock_guard lock(mutex_);
  const auto at = index <= UINT32_MAX ? open_.find(static_cast<uint32_t>(index)) : open_.end();
  if (at == open_.end()) return Error{Code::kProtocol, "an answer to no request", 0};
  BasisChoice choice = std::move(at->second);
  open_.erase(at);
  return choice;
}

std::vector<uint32_t> RequestBook::takeAll() {
  const std::lock_guard lock(mutex_);
  std::vector<uint32_t> indexes;
  for (const auto& [index, choice] : open_) indexes.push_back(index);
  open_.clear();
  std::sort(indexes.begin(), indexes.end());
  return indexes;
}

bool RequestBook::isEmpty() const {
  const std::lock_guard lock(mutex_);
  return open_.empty();
}

}  // namespace deltahop
