#include "codec/in_place_output.h"

#include <algorithm>
#include <utility>

namespace deltahop {

InPlaceOutput::InPlaceOutput(File file, File journal, std::vector<PatchExtent> overlay, bool durable)
    : file_(std::move(file)),
      journalFile_(std::move(journal)),
      storage_(file_),
      journalStorage_(journalFile_),
      writer_(journalStorage_),
      overlay_(std::move(overlay)),
      durable_(durable) {}

Result<std::unique_ptr<InPlaceOutput>> InPlaceOutput::begin(File file, const std::string& path, File journal,
                                                            std::vector<PatchExtent> overlay, bool durable) {
  std::unique_ptr<InPlaceOutput> output(
      new InPlaceOutput(std::move(file), std::move(journal), std::move(overlay), durable));
  DH_TRY(output->fileBytes_, output->file_.size());
  DH_TRY(const PatchTarget target, patchTarget(output->file_, path));
  DH_CHECK(output->writer_.begin(target));
  return output;
}

InPlaceOutput::~InPlaceOutput() {
  // It is only of use to a later transfer; that it cannot be written is no news.
  if (!writer_.journal().isSealed()) (void)writer_.flush().ok();
}

Status InPlaceOutput::write(ByteSpan data) {
  DH_CHECK(writer_.write(offset_, data));
  offset_ += data.size();
  return {};
}

Status InPlaceOutput::zeros(uint64_t length) {
  DH_CHECK(writer_.zeros(offset_, length));
  offset_ += length;
  return {};
}

Status InPlaceOutput::copied(uint64_t basisOffset, ByteSpan data) {
  if (basisOffset != offset_ || offset_ >= fileBytes_ || data.size() > fileBytes_ - offset_) return write(data);
  while (!data.empty()) {
    while (nextOverlay_ < overlay_.size() && overlay_[nextOverlay_].end() <= offset_) ++nextOverlay_;
    const bool last = nextOverlay_ == overlay_.size();
    const bool isOver = !last && overlay_[nextOverlay_].offset <= offset_;
    const uint64_t stop = last ? UINT64_MAX : isOver ? overlay_[nextOverlay_].end() : overlay_[nextOverlay_].offset;
    const ByteSpan part = data.first(std::min<uint64_t>(stop - offset_, data.size()));
    if (isOver) {
      DH_CHECK(write(part));
    } else {
      offset_ += part.size();
    }
    data = data.subspan(part.size());
  }
  return {};
}

bool InPlaceOutput::keep(uint64_t basisOffset, uint64_t length) {
  if (basisOffset != offset_ || !overlay_.empty() || offset_ > fileBytes_ || length > fileBytes_ - offset_)
    return false;
  offset_ += length;
  return true;
}

Status InPlaceOutput::finish(uint64_t size) {
  patchedBytes_ = size;
  return {};
}

// A full disk must show while the file is still the old one.
Status InPlaceOutput::reserve() {
  Extent there;  // the last one that was looked for
  for (const PatchExtent& extent : writer_.journal().extents()) {
    if (extent.isZeros()) continue;
    for (uint64_t at = extent.offset; at < extent.end();) {
      if (at >= fileBytes_) {
        DH_CHECK(reserveSpace(file_, at, extent.end() - at));
        break;
      }
      if (at < there.offset || at >= there.end()) {
        DH_TRY(there, file_.nextExtent(at, fileBytes_));
      }
      const uint64_t stop = std::min(there.end(), extent.end());
      if (there.isHole) DH_CHECK(reserveSpace(file_, at, stop - at));
      at = stop;
    }
  }
  return {};
}

Status InPlaceOutput::commit() {
  DH_CHECK(writer_.flush());
  DH_CHECK(reserve());
  DH_CHECK(writer_.seal(patchedBytes_, durable_));
  return applyPatch(journalStorage_, writer_.journal(), storage_, durable_);
}

}  // namespace deltahop
