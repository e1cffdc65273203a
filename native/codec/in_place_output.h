// Patches a file where it lies, by way of a journal.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "codec/patcher.h"
#include "io/patch_journal.h"
#include "io/storage.h"

namespace deltahop {

/// Gathers in a journal what the patched file has differently from the file as it is; the file itself is only written
/// by commit(). What arrived stays in the journal if this goes away before.
class InPlaceOutput final : public PatchOutput {
 public:
  /// `file` is open for reading and writing, `journal` is new; both are taken over. `overlay` lies over the file as the
  /// basis knows it, so a copy from there is no copy of the file. `durable`: commit() leaves it on stable storage.
  static Result<std::unique_ptr<InPlaceOutput>> begin(File file, const std::string& path, File journal,
                                                      std::vector<PatchExtent> overlay, bool durable = true);
  InPlaceOutput(const InPlaceOutput&) = delete;
  InPlaceOutput& operator=(const InPlaceOutput&) = delete;
  ~InPlaceOutput() override;

  Status write(ByteSpan data) override;
  Status zeros(uint64_t length) override;
  Status copied(uint64_t basisOffset, ByteSpan data) override;
  bool keep(uint64_t basisOffset, uint64_t length) override;
  Status finish(uint64_t size) override;

  /// Makes the file what was written and finished. Whenever this process is interrupted, the journal finishes it; so it
  /// does after a loss of power, where it is to be durable. kNoSpace: before anything was changed, wherever the file
  /// system can tell.
  Status commit();
  /// From here on the change is made, if not now, then by the next receiver.
  bool isSealed() const { return writer_.journal().isSealed(); }
  File& file() { return file_; }

 private:
  InPlaceOutput(File file, File journal, std::vector<PatchExtent> overlay, bool durable);
  Status reserve();

  File file_;
  File journalFile_;
  FileStorage storage_;
  FileStorage journalStorage_;
  PatchJournalWriter writer_;
  std::vector<PatchExtent> overlay_;
  const bool durable_;
  size_t nextOverlay_ = 0;
  uint64_t fileBytes_ = 0;
  uint64_t offset_ = 0;
  uint64_t patchedBytes_ = 0;
};

}  // namespace deltahop
