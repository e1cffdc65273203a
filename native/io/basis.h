// What the receiver already holds for one target file, seen as one range of bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "io/file.h"
#include "io/patch_journal.h"

namespace deltahop {

/// At most this many files make one basis.
inline constexpr size_t kMaxBasisFiles = 8;

/// Where one file lies in the range of a basis.
struct BasisSpan {
  uint64_t start = 0;
  uint64_t bytes = 0;
  uint64_t end() const { return start + bytes; }
};

/// The spans of files of these sizes, each start aligned up to `blockBytes`; the same rule at both ends of a transfer.
std::vector<BasisSpan> basisLayout(std::span<const uint64_t> fileBytes, uint64_t blockBytes);

/// What a patch in place that was cut would have put over a file.
struct Overlay {
  File journal;
  std::vector<PatchExtent> extents;
  uint64_t end() const { return extents.empty() ? 0 : extents.back().end(); }
};

/// An ordered list of files as ONE virtual range: concatenated, each file's start aligned up to the block size, the
/// gaps read as zeros. Sizes are those at construction. Empty files may be among them.
class Basis {
 public:
  /// No files: every target is all literals.
  Basis() = default;
  /// Takes the files over; `overlay` lies over the first of them. kLimit above kMaxBasisFiles or kMaxFileBytes.
  static Result<Basis> make(std::vector<File> files, uint32_t blockBytes, Overlay overlay = {});

  /// Fills the buffer; the range must lie inside [0, size()) (kCorrupt: deltas come from outside). kChanged if a file
  /// has become shorter.
  Status readAt(uint64_t offset, std::span<uint8_t> buffer) const;
  /// Data or hole from `offset` (below size()); gaps between files are holes.
  Result<Extent> nextExtent(uint64_t offset) const;
  uint64_t size() const { return spans_.empty() ? 0 : spans_.back().end(); }
  uint32_t blockBytes() const { return blockBytes_; }
  const std::vector<BasisSpan>& spans() const { return spans_; }
  /// What lies over the first file.
  const std::vector<PatchExtent>& overlay() const { return overlay_.extents; }
  /// Makes `clone` a clone of the first file and reads from there from now on, so that nobody changes it. kUnsupported
  /// where the file system cannot, kChanged if the file has another size by now.
  Status freezeFirst(File clone);
  const File& first() const { return files_.front(); }

 private:
  Status readFirst(uint64_t offset, std::span<uint8_t> buffer) const;
  size_t extentAt(uint64_t offset) const;

  std::vector<File> files_;
  Overlay overlay_;
  uint64_t firstBytes_ = 0;  // of the first file without its overlay
  std::vector<BasisSpan> spans_;
  uint32_t blockBytes_ = 0;
};

}  // namespace deltahop
