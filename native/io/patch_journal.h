// The journal of one file that is patched in place: everything that will be written to it, gathered while the file
// stays as it is, and sealed before the first byte of it is touched. So a file is old until its delta has come and been
// verified, whatever was read from it stays readable until then, and a crash afterwards is finished from the journal.
// The format: FORMATS.md section 6.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "hash/blake3.h"
#include "io/storage.h"

namespace deltahop {

/// The file that a journal is for, as it was when the journal was begun.
struct PatchTarget {
  std::string path;  // beneath the tree's root
  uint64_t inode = 0;
  int64_t birthSeconds = 0;  // 0 where the file system does not know
  uint32_t birthNanoseconds = 0;

  /// Whatever its path, it is the same file.
  bool sameFile(const PatchTarget& other) const {
    return inode == other.inode && birthSeconds == other.birthSeconds && birthNanoseconds == other.birthNanoseconds;
  }
};

/// The open file as a target, for its journal to find again.
Result<PatchTarget> patchTarget(const File& file, const std::string& path);

/// A piece of new content.
struct PatchExtent {
  uint64_t offset = 0;  // in the target
  uint64_t length = 0;
  uint64_t journalOffset = 0;  // of the bytes; 0 for zeros, which have none
  bool isZeros() const { return journalOffset == 0; }
  uint64_t end() const { return offset + length; }
};

/// What a journal says. One that is not sealed is good up to where it was cut, as content that may be of use.
class PatchJournal {
 public:
  /// Reads its structure, not its content. kCorrupt if it is not the beginning of a journal; kLimit for too many
  /// pieces.
  static Result<PatchJournal> read(const Storage& file);

  const PatchTarget& target() const { return target_; }
  /// In rising order, without overlaps.
  const std::vector<PatchExtent>& extents() const { return extents_; }
  /// End of the last extent.
  uint64_t end() const { return extents_.empty() ? 0 : extents_.back().end(); }
  /// Complete: its checksum was right when it was read.
  bool isSealed() const { return sealed_; }
  /// Size of the patched file; of a sealed one.
  uint64_t patchedBytes() const { return patchedBytes_; }

 private:
  friend class PatchJournalWriter;

  PatchTarget target_;
  std::vector<PatchExtent> extents_;
  bool sealed_ = false;
  uint64_t patchedBytes_ = 0;
};

/// Writes a journal.
class PatchJournalWriter {
 public:
  /// `file` is empty and must outlive the writer.
  explicit PatchJournalWriter(Storage& file) : file_(file) {}

  Status begin(const PatchTarget& target);
  /// New content at an offset at or behind the end of what was given before.
  Status write(uint64_t offset, ByteSpan data);
  /// The same for zeros.
  Status zeros(uint64_t offset, uint64_t length);
  /// What was given so far is in the file, for a later transfer to find.
  Status flush();
  /// All of it is there, on stable storage if `durable`; from now on it will be applied, come what may.
  Status seal(uint64_t patchedBytes, bool durable = true);
  /// What was given so far and flushed.
  const PatchJournal& journal() const { return journal_; }

 private:
  Status endRun();
  Status append(ByteSpan bytes);

  Storage& file_;
  PatchJournal journal_;
  Blake3 checksum_;
  Bytes run_;  // contiguous new content that is no record yet
  uint64_t runOffset_ = 0;
  Bytes buffer_;  // of the journal, not yet written
  uint64_t appended_ = 0;
};

/// Writes the content of a sealed journal into its target, on stable storage when it returns if `durable`. May be
/// repeated, also after any part of it was done. Meanwhile the journal's mtime follows the target's, which is how a
/// later reader can tell that nobody else has written there since.
Status applyPatch(Storage& journalFile, const PatchJournal& journal, Storage& target, bool durable = true);

}  // namespace deltahop
