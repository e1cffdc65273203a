// The place for what is not finished: private files under the reserved directory at a receiving root.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "io/directory.h"
#include "io/file.h"

namespace deltahop {

/// Files here have names that follow from the path they are for, so a later transfer finds what an earlier one left and
/// uses it as a further basis. Several threads may use one.
class PartialDirectory {
 public:
  /// Looks what is there; makes nothing yet.
  static Result<PartialDirectory> open(const Directory& root);

  /// Names of what earlier transfers left for this path, the largest first, at most kMaxLeftOvers; others of this path
  /// are removed.
  std::vector<std::string> leftOvers(const std::string& path);
  /// Reads one of them.
  Result<File> read(const std::string& name) const;
  /// A new, empty, private file for this path; `name` is set to its name here.
  Result<File> create(const std::string& path, std::string& name);
  /// The journal (io/patch_journal.h) that an earlier transfer left for this path; empty if there is none.
  std::string leftJournal(const std::string& path) const;
  /// A new, empty file for a journal for this path.
  Result<File> createJournal(const std::string& path, std::string& name);
  static bool isJournalName(std::string_view name);
  /// A name here for an entry of another kind, free of whatever an earlier transfer left under it.
  Result<std::string> freeName();
  void remove(const std::string& name);
  /// Removes the files that earlier transfers left for this path.
  void removeLeftOvers(const std::string& path);
  /// Removes all, and the directory; nobody else may be using it any more.
  Status removeAll();

  /// Valid once something was made here.
  const Directory& directory() const { return directory_; }

  static constexpr size_t kMaxLeftOvers = 3;

 private:
  Status make();
  void unlink(const std::string& name);

  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
  const Directory* root_ = nullptr;
  Directory directory_;
  std::unordered_map<std::string, std::vector<std::string>> known_;  // key of a path → names
  std::unordered_map<std::string, std::string> journals_;            // key of a path → name
  uint64_t nextNumber_ = 0;
};

}  // namespace deltahop
