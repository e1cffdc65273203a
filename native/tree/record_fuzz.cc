// Any bytes as a record: refused, or a record that is written again as the same record.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "hash/blake3.h"
#include "tree/manifest.h"
#include "tree/record.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deltahop;
  // The checksum is no secret, but it would keep a fuzzer from getting any further.
  Bytes bytes(data, data + size);
  const Digest checksum = blake3(bytes);
  bytes.insert(bytes.end(), checksum.begin(), checksum.begin() + 16);
  const auto record = decodeRecord(bytes);
  if (!record.ok()) return 0;
  const Bytes written = encodeRecord(record.value().tree, record.value().stamps);
  const auto again = decodeRecord(written);
  if (!again.ok()) std::abort();
  if (manifestDigest(again.value().tree) != manifestDigest(record.value().tree)) std::abort();
  if (again.value().stamps != record.value().stamps) std::abort();
  return 0;
}
