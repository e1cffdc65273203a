#include "job/offers.h"

#include <algorithm>
#include <utility>

#include "wire/writer.h"

namespace deltahop {
namespace {

Result<uint32_t> readStep(Reader& reader, uint64_t& next, uint32_t entries) {
  DH_TRY(const uint64_t step, reader.varint(entries));
  const uint64_t index = next + step;
  if (index >= entries) return Error{Code::kProtocol, "a message about no entry", 0};
  next = index + 1;
  return static_cast<uint32_t>(index);
}

}  // namespace

void FileListWriter::add(uint32_t index) {
  Writer(list_).varint(index - next_);
  next_ = index + 1;
}

void FileListWriter::add(ByteSpan more) {
  Writer(list_).raw(more);
}

Bytes FileListWriter::take() {
  next_ = 0;
  return std::exchange(list_, {});
}

Result<std::vector<uint32_t>> readFileList(Reader& reader, uint32_t entries) {
  std::vector<uint32_t> indexes;
  uint64_t next = 0;
  while (reader.remaining() > 0) {
    DH_TRY(const uint32_t index, readStep(reader, next, entries));
    indexes.push_back(index);
  }
  return indexes;
}

Digest offerSum(const Key& key, const Digest& digest) {
  return blake3Keyed(key, digest);
}

Result<std::vector<Offer>> readOffers(ByteSpan payload, uint32_t entries, size_t sumBytes) {
  Reader reader(payload);
  std::vector<Offer> offers;
  uint64_t next = 0;
  while (reader.remaining() > 0) {
    Offer offer;
    DH_TRY(offer.index, readStep(reader, next, entries));
    DH_TRY(offer.sum, reader.take(sumBytes));
    offers.push_back(offer);
  }
  return offers;
}

Result<SameFiles> readSame(ByteSpan payload, uint32_t entries, bool confirmed) {
  Reader reader(payload);
  SameFiles same;
  if (confirmed) {
    DH_TRY(const ByteSpan bytes, reader.take(sizeof(Digest)));
    std::copy(bytes.begin(), bytes.end(), same.digests.emplace().begin());
  }
  DH_TRY(same.indexes, readFileList(reader, entries));
  return same;
}

}  // namespace deltahop
