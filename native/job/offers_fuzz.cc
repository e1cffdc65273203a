// Any bytes as offers and the answers to them: refused, or files of the tree in their order, of which the same bytes
// are made again.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "job/offers.h"
#include "wire/writer.h"

namespace {

using namespace deltahop;

constexpr uint32_t kEntries = 1000;

void requireEqual(ByteSpan payload, const Bytes& again) {
  if (!std::equal(payload.begin(), payload.end(), again.begin(), again.end())) std::abort();
}

void append(FileListWriter& list, uint32_t index) {
  if (index >= kEntries || !list.takes(index)) std::abort();
  list.add(index);
}

void tryOffers(ByteSpan payload, size_t sumBytes) {
  const auto offers = readOffers(payload, kEntries, sumBytes);
  if (!offers.ok()) return;
  FileListWriter list;
  for (const Offer& offer : offers.value()) {
    append(list, offer.index);
    list.add(offer.sum);
  }
  requireEqual(payload, list.take());
}

void trySame(ByteSpan payload, bool confirmed) {
  const auto same = readSame(payload, kEntries, confirmed);
  if (!same.ok()) return;
  FileListWriter list;
  for (const uint32_t index : same.value().indexes) append(list, index);
  Bytes again;
  Writer writer(again);
  if (same.value().digests.has_value()) writer.raw(*same.value().digests);
  writer.raw(list.take());
  requireEqual(payload, again);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const ByteSpan payload(data, size);
  tryOffers(payload, kOfferBytes);
  tryOffers(payload, kLoneOfferBytes);
  trySame(payload, true);
  trySame(payload, false);
  return 0;
}
