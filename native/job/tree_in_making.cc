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
  touched[wanted.entry(index).parent] = true;
  return {};
}

Error withPath(Error error, const std::string& path) {
  error.context = path + ": " + error.context;
  return error;
}

}  // namespace deltahop
