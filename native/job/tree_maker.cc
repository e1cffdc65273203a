#include "job/tree_maker.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

namespace deltahop {

Status TreeMaker::prepareDirectories() {
  const bool asRoot = ::geteuid() == 0;
  for (uint32_t index = 0; index < tree_.wanted.size(); ++index) {
    if (!tree_.wanted.isDirectory(index)) continue;
    const std::string name(tree_.wanted.name(index));
    const uint32_t partner = tree_.plan.partners[index];
    if (tree_.plan.actions[index] != Action::kMake) {
      if (asRoot || (tree_.own.mode(partner) & 0700) == 0700) continue;
      // Without root an own directory may have to be opened for us first.
      if (index > 0) DH_CHECK(makeAccessible(index, name));
      tree_.touched[index] = true;
      continue;
    }
    DH_TRY(const Directory* parent, tree_.wantedParents->parentOf(index));
    if (partner != kNoEntry) DH_CHECK(parent->unlink(name));
    Status made = parent->makeDirectory(name, 0700);
    if (!made.ok() && made.error().sysErrno == EEXIST) {
      // Something that no scan shows, a socket.
      if (options_.deleteOthers) {
        DH_CHECK(parent->removeTree(name));
      } else {
        DH_CHECK(parent->unlink(name));
      }
      made = parent->makeDirectory(name, 0700);
    }
    if (!made.ok()) return withPath(made.error(), tree_.wanted.path(index));
    tree_.touched[index] = tree_.touched[tree_.wanted.parent(index)] = true;
  }
  return {};
}

Status TreeMaker::makeAccessible(uint32_t index, const std::string& name) {
  DH_TRY(const Directory* parent, tree_.wantedParents->parentOf(index));
  const int handle = ::openat(parent->fd(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (handle < 0) return systemError(errno, "open " + tree_.wanted.path(index));
  const File owner(handle);
  if (::chmod(("/proc/self/fd/" + std::to_string(handle)).c_str(), 0700) != 0) {
    return systemError(errno, "change mode of " + tree_.wanted.path(index));
  }
  return {};
}

Status TreeMaker::finishEntries() {
  ParentCache leaders(tree_.root, tree_.wanted);
  for (uint32_t index = 1; index < tree_.wanted.size(); ++index) {
    if (cancelled_()) return Error{Code::kCancelled, "finish", 0};
    if (tree_.wanted.isDirectory(index)) continue;
    const std::string name(tree_.wanted.name(index));
    switch (tree_.plan.actions[index]) {
      case Action::kMetadata: {
        DH_TRY(const Directory* parent, tree_.wantedParents->parentOf(index));
        auto file = parent->openRegular(name);
        if (!file.ok()) return withPath(file.error(), tree_.wanted.path(index));
        DH_CHECK(applyMetadata(file.value().fd(), metadataOf(tree_.wanted, index), tree_.wanted.path(index), notes_));
        break;
      }
      case Action::kMake:
        DH_CHECK(makeEntry(index));
        break;
      case Action::kLink: {
        const uint32_t leader = tree_.wanted.entry(index).leader;
        if (tree_.missing[leader]) {
          tree_.missing[index] = true;
          break;
        }
        DH_TRY(const Directory* from, leaders.parentOf(leader));
        DH_TRY(const std::string temporary, tree_.partial.freeName());
        const Status linked = from->link(std::string(tree_.wanted.name(leader)), tree_.partial.directory(), temporary);
        if (!linked.ok()) return withPath(linked.error(), tree_.wanted.path(index));
        DH_CHECK(tree_.renameInto(index, temporary, options_.deleteOthers));
        // Two names of one inode: then rename does nothing.
        tree_.partial.remove(temporary);
        break;
      }
      case Action::kSettled:
      case Action::kContent:
        break;
    }
  }
  return {};
}

Status TreeMaker::makeEntry(uint32_t index) {
  const std::string path = tree_.wanted.path(index);
  DH_TRY(const std::string temporary, tree_.partial.freeName());
  const Directory& directory = tree_.partial.directory();
  const Metadata metadata = metadataOf(tree_.wanted, index);
  Status made;
  if (tree_.wanted.isSymlink(index)) {
    made = directory.makeSymlink(tree_.wanted.target(index), temporary);
  } else {
    made = directory.makeNode(temporary, metadata.mode & (S_IFMT | 0700),
                              tree_.wanted.isDevice(index) ? static_cast<dev_t>(tree_.wanted.entry(index).value) : 0);
  }
  if (!made.ok()) {
    if (made.error().sysErrno != EPERM) return withPath(made.error(), path);
    notes_.add(path + ": device could not be made");
    tree_.missing[index] = true;
    return {};
  }
  const Status applied = applyMetadataToNode(directory, temporary, metadata, path, notes_);
  if (!applied.ok()) return withPath(applied.error(), path);
  return tree_.renameInto(index, temporary, options_.deleteOthers);
}

Status TreeMaker::deleteOthers() {
  if (tree_.plan.deletes.empty()) return {};
  std::vector<uint32_t> wantedOf(tree_.own.size(), kNoEntry);
  for (uint32_t index = 0; index < tree_.wanted.size(); ++index) {
    if (tree_.plan.partners[index] != kNoEntry) wantedOf[tree_.plan.partners[index]] = index;
  }
  ParentCache parents(tree_.root, tree_.own);
  for (const uint32_t index : tree_.plan.deletes) {
    if (cancelled_()) return Error{Code::kCancelled, "delete", 0};
    DH_TRY(const Directory* parent, parents.parentOf(index));
    auto removed = parent->removeTree(std::string(tree_.own.name(index)));
    if (!removed.ok()) return withPath(removed.error(), tree_.own.path(index));
    deletedEntries_ += removed.value();
    tree_.touched[wantedOf[tree_.own.parent(index)]] = true;
  }
  return {};
}

Status TreeMaker::finishDirectories() {
  tree_.wantedParents->forget();
  for (uint32_t index = tree_.wanted.size(); index-- > 0;) {
    if (!tree_.wanted.isDirectory(index)) continue;
    if (!tree_.touched[index] && tree_.plan.actions[index] == Action::kSettled && index != 0) continue;
    if (index == 0 && options_.entryName.has_value()) continue;  // not ours to change
    DH_TRY(const Directory directory, tree_.root.openBeneath(tree_.wanted.path(index)));
    DH_CHECK(applyMetadata(directory.fd(), metadataOf(tree_.wanted, index), tree_.wanted.path(index), notes_));
  }
  return {};
}

}  // namespace deltahop
