#include "job/tree_in_making.h"

#include <cerrno>

namespace deltahop {

Status TreeInMaking::renameInto(uint32_t index, const std::string& name, bool deleteOthers) {
  DH_TRY(const Directory* parent, wantedParents->parentOf(index));
  const std::string toName(wanted.name(index));
  Status renamed = partial.directory().rename(name, *parent, toName);
  if (!renamed.ok() && renamed.error().sysErrno == EISDIR) {
    if (deleteOthers) {
      DH_CHECK(parent->removeTree(toName));
    } else {
      DH_CHECK(parent->removeDirectory(toName));
    }
    renamed = partial.directory().rename(name, *parent, toName);
  }
  if (!renamed.ok()) return withPath(renamed.error(), wanted.path(index));
  touched[wanted.parent(index)] = true;
  return {};
}

bool mayStay(const TreeInMaking& tree, uint32_t own, const struct stat& status) {
  const Entry entry = tree.own.entry(own);
  return S_ISREG(status.st_mode) && status.st_nlink == 1 && static_cast<uint64_t>(status.st_size) == entry.value &&
         status.st_mtim.tv_sec == entry.mtimeSeconds && status.st_mtim.tv_nsec == entry.mtimeNanoseconds;
}

Error withPath(Error error, const std::string& path) {
  error.context = path + ": " + error.context;
  return error;
}

}  // namespace deltahop
