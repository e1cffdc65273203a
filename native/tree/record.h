// A record: what a tree held when it was last looked at, and by which signs its files are known again. FORMATS.md
// section 7.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "tree/scan.h"
#include "tree/tree.h"

namespace deltahop {

/// A tree with the content digests and stamps of its files (by entry), as far as they are known.
struct TreeRecord {
  Tree tree;
  std::vector<FileStamp> stamps;
};

Bytes encodeRecord(const Tree& tree, const std::vector<FileStamp>& stamps);
/// kCorrupt, kTruncated, kLimit, kUnsupported.
Result<TreeRecord> decodeRecord(ByteSpan bytes);

/// The record in a file; nothing if there is none that can be read: a record is only a help.
std::optional<TreeRecord> readRecord(const std::string& path);
/// Writes it privately and renames it into place. It need not survive a crash; half of one is not taken for one.
Status writeRecord(const std::string& path, const Tree& tree, const std::vector<FileStamp>& stamps);

/// Gives the files of a tree just scanned the digests that the record knows of them: same path, size, mtime and stamp.
void addRecordedDigests(const TreeRecord& record, Tree& tree, const std::vector<FileStamp>& stamps);

}  // namespace deltahop
