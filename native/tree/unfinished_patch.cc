#include "tree/unfinished_patch.h"

#include <fcntl.h>

#include <string>

#include "io/patch_journal.h"
#include "tree/partial_directory.h"
#include "tree/scan.h"

namespace deltahop {
namespace {

// Between a journal's last sign of life and the last write that it stands for; a loss of power takes some of the signs.
constexpr int64_t kMaxLagSeconds = 60;

// The file that the journal is for; not open if there is no such file any more.
Result<File> openTarget(const Directory& root, const File& journalFile, const PatchTarget& target) {
  const size_t slash = target.path.rfind('/');
  const std::string above = slash == std::string::npos ? "" : target.path.substr(0, slash);
  const std::string name = slash == std::string::npos ? target.path : target.path.substr(slash + 1);
  const auto directory = root.openBeneath(above);
  if (!directory.ok()) return File();
  auto opened = directory.value().open(name, O_RDWR);
  if (!opened.ok()) {
    const int sysErrno = opened.error().sysErrno;
    // What cannot be written now may be so later: that is an error, and the journal stays.
    if (sysErrno == EACCES || sysErrno == EROFS || sysErrno == ETXTBSY) return opened.error();
    return File();
  }
  DH_TRY(const struct stat status, opened.value().stat());
  DH_TRY(const struct stat journalStatus, journalFile.stat());
  if (!S_ISREG(status.st_mode)) return File();
  DH_TRY(const PatchTarget found, patchTarget(opened.value(), target.path));
  if (!found.sameFile(target) || status.st_mtim.tv_sec - journalStatus.st_mtim.tv_sec > kMaxLagSeconds) return File();
  return opened;
}

}  // namespace

Result<uint64_t> finishPatches(const Directory& root, Notes& notes) {
  const auto opened = root.openBeneath(kPartialDirectory);
  if (!opened.ok()) return uint64_t{0};
  const Directory& directory = opened.value();
  DH_TRY(const std::vector<std::string> names, directory.names());
  uint64_t finished = 0;
  for (const std::string& name : names) {
    if (!PartialDirectory::isJournalName(name)) continue;
    auto file = directory.open(name, O_RDWR);
    if (!file.ok()) continue;
    FileStorage storage(file.value());
    const auto journal = PatchJournal::read(storage);
    if (!journal.ok() || !journal.value().isSealed()) continue;
    DH_TRY(File target, openTarget(root, file.value(), journal.value().target()));
    if (target.isOpen()) {
      FileStorage targetStorage(target);
      DH_CHECK(applyPatch(storage, journal.value(), targetStorage));
      ++finished;
    } else {
      notes.add(journal.value().target().path + ": was replaced or changed since it was patched in part");
    }
    DH_CHECK(directory.unlink(name));
  }
  return finished;
}

}  // namespace deltahop
