// The receiver of a tree.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "job/common_files.h"
#include "job/job.h"

namespace deltahop {

struct ReceiveJobOptions {
  /// Made if only its last component is missing. Its content becomes the sender's, what is not there is deleted.
  std::string rootPath;
  /// Everything is on stable storage before the sender hears that it is done.
  bool durable = false;
  /// The report's text is the digest of the tree as it lies here afterwards, read back from the file system.
  bool treeDigest = false;
  /// The tree lies below rootPath at this path, of which no component may be a symlink; what is missing is made.
  std::string beneath = {};
  /// Only this entry of the directory is received, whatever its name at the sender; what is beside it is left alone,
  /// and a sender that has more than one entry is refused.
  std::optional<std::string> entryName = {};
  /// Without it, what the sender lacks stays, and a directory that is not empty is not replaced by something else.
  bool deleteOthers = true;
  /// If more entries than this would be deleted, none is.
  uint64_t maxDeletes = UINT64_MAX;
  /// Nobody uses the tree meanwhile: larger files that are there already are patched where they lie
  /// (codec/in_place_output.h).
  bool inPlace = false;
  /// Nothing is written, made or deleted, nor any content requested.
  bool dryRun = false;
  /// The report's text is what was (with dryRun: would be) changed: tree/itemize.h.
  bool itemize = false;
  /// The record of the tree (tree/record.h), kept outside of it: files that it still knows are not read. Rewritten
  /// after the transfer. Not with entryName or dryRun.
  std::optional<std::string> recordPath = {};
  /// Files outside of the tree, in any order: what the sender holds as well of them helps with the largest file that
  /// has no old self.
  std::vector<CommonFile> common = {};
};

/// Input and output: the messages of FORMATS.md section 5. A transfer that is cut leaves what arrived in the reserved
/// directory at the root, and the next one goes on from there. Statistics: filesTotal, filesSettled, filesReceived,
/// totalBytes, readBytes, literalBytes, matchedBytes, keptBytes (of those, in place and not read a second time),
/// zeroBytes, signatureBytes, hashedBytes (read for digests alone), sentBytes, receivedBytes, repairedFiles,
/// deletedEntries, deletesRefused, finishedPatches (left by a receiver that was killed), goneFiles, missedEntries
/// (wanted, and not had), incompleteSource (0 or 1), scanMs, digestMs, manifestMs, filesMs, finishMs.
std::unique_ptr<Job> makeReceiveJob(ReceiveJobOptions options);

}  // namespace deltahop
