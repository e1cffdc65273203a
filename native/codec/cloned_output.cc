#include "codec/cloned_output.h"

namespace deltahop {

Status ClonedOutput::write(ByteSpan data) {
  DH_CHECK(file_.writeAt(offset_, data));
  offset_ += data.size();
  return {};
}

Status ClonedOutput::zeros(uint64_t length) {
  DH_CHECK(makeZeros(storage_, offset_, length));
  offset_ += length;
  return {};
}

Status ClonedOutput::copied(uint64_t basisOffset, ByteSpan data) {
  if (basisOffset != offset_ || offset_ >= fileBytes_ || data.size() > fileBytes_ - offset_) return write(data);
  offset_ += data.size();
  return {};
}

Status ClonedOutput::finish(uint64_t size) {
  return file_.truncate(size);
}

}  // namespace deltahop
