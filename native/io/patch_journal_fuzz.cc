// Any bytes as a patch journal: refused, cut, or applied within what its seal says. The first byte says whether a right
// checksum is put behind the rest.
#include <cstdlib>

#include "io/memory_storage.h"
#include "io/patch_journal.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  deltahop::Bytes bytes(data + 1, data + size);
  if ((data[0] & 1) != 0) {
    const deltahop::Digest digest = deltahop::blake3(bytes);
    bytes.insert(bytes.end(), digest.begin(), digest.begin() + 16);
  }
  deltahop::MemoryStorage file(std::move(bytes));
  const auto journal = deltahop::PatchJournal::read(file);
  if (!journal.ok()) return 0;
  uint64_t end = 0;
  for (const deltahop::PatchExtent& extent : journal.value().extents()) {
    if (extent.length == 0 || extent.offset < end) std::abort();
    if (!extent.isZeros() && extent.length > file.content().size() - extent.journalOffset) std::abort();
    end = extent.end();
  }
  deltahop::MemoryStorage target(deltahop::Bytes(1000, 1));
  const deltahop::Status applied = applyPatch(file, journal.value(), target);
  if (applied.ok() && target.content().size() != journal.value().patchedBytes()) std::abort();
  return 0;
}
