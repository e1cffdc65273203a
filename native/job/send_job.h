// The sender of a tree.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "codec/delta_encoder.h"
#include "job/common_files.h"
#include "job/job.h"

namespace deltahop {

struct SendJobOptions {
  std::string rootPath;
  /// The tree lies below rootPath at this path, of which no component may be a symlink; empty for rootPath itself.
  std::string beneath = {};
  /// Send only this entry of the directory.
  std::optional<std::string> entryName = {};
  /// Send what an overlay upper directory over this tree must hold to look like rootPath, instead of rootPath.
  std::optional<std::string> againstPath;
  /// Left out, by full name.
  std::vector<std::string> excludeXattrs;
  /// Put every file's content digest into the manifest, so that no file counts as unchanged by its times.
  bool verify = false;
  /// With verify: all files are likely to have changed, so none is read for its digest alone. The manifest has no
  /// digests, every file is compared with what the receiver has, and its digest comes with it.
  bool lateDigests = false;
  /// The tree is alive and not all of it is ours: files that change or vanish while they are read, or may not be read,
  /// are noted, not errors.
  bool allowChanging = false;
  int zstdLevel = kDefaultZstdLevel;
  /// The record of this tree (tree/record.h): files that it still knows are not read for their digests. Rewritten after
  /// the transfer. Not with entryName or againstPath.
  std::optional<std::string> recordPath = {};
  /// A directory that still holds what the receiver is believed to hold, and its record: what changed since is sent at
  /// once. Nothing is lost where the receiver holds something else, or the record does not fit.
  struct Basis {
    std::string treePath;
    std::string recordPath;
  };
  std::optional<Basis> basis = {};
  /// Files outside of the tree that the receiver may hold as well: the largest file of which it has no old self is sent
  /// without what is in them, at any offset. They are named only if there is no basis.
  std::vector<CommonFile> common = {};
};

/// Input and output: the messages of FORMATS.md section 5. Statistics: filesTotal, filesSent, totalBytes, readBytes,
/// literalBytes, literalEncodedBytes, matchedBytes, zeroBytes, falseMatches, changedFiles, goneFiles, signatureBytes,
/// hashedBytes (read for digests alone), manifestBytes, sentBytes, receivedBytes, scanMs, digestMs, serveMs, and the
/// receiver's filesSettled, repairedFiles, deletedEntries. With a basis: identityBytes (as they were, where they were),
/// sharedMatchedBytes (elsewhere in the old file), residualBytes (beside old bytes), residualEncodedBytes, sharedMs,
/// and basisRefused and basisSettled (nothing differs from it; 0 or 1).
std::unique_ptr<Job> makeSendJob(SendJobOptions options);

}  // namespace deltahop
