// The sender of a tree.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "codec/delta_encoder.h"
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
  /// The tree is alive and not all of it is ours: files that change or vanish while they are read, or may not be read,
  /// are noted, not errors.
  bool allowChanging = false;
  int zstdLevel = kDefaultZstdLevel;
};

/// Input and output: the messages of FORMATS.md section 5. Statistics: filesTotal, filesSent, totalBytes, readBytes,
/// literalBytes, literalEncodedBytes, matchedBytes, zeroBytes, falseMatches, changedFiles, goneFiles, signatureBytes,
/// manifestBytes, sentBytes, receivedBytes, scanMs, digestMs, serveMs, and the receiver's filesSettled, repairedFiles,
/// deletedEntries.
std::unique_ptr<Job> makeSendJob(SendJobOptions options);

}  // namespace deltahop
