// A private file that begins as a clone of the old one, on file systems that share blocks.
#pragma once

#include "codec/patcher.h"
#include "io/storage.h"

namespace deltahop {

/// Writes only what differs from the clone's own content: what stays where it was keeps sharing its blocks with the old
/// file.
class ClonedOutput final : public PatchOutput {
 public:
  /// `file` is a clone of the basis' first file, which must not change meanwhile: a clone itself.
  ClonedOutput(File& file, uint64_t fileBytes) : file_(file), storage_(file), fileBytes_(fileBytes) {}
  Status write(ByteSpan data) override;
  Status zeros(uint64_t length) override;
  Status copied(uint64_t basisOffset, ByteSpan data) override;
  Status finish(uint64_t size) override;

 private:
  File& file_;
  FileStorage storage_;
  const uint64_t fileBytes_;
  uint64_t offset_ = 0;
};

}  // namespace deltahop
