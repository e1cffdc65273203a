// Any bytes as the names of common files: refused, or such that one basis takes them, of which the same bytes are made
// again.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "job/common_files.h"
#include "signature/page_sums.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace deltahop;
  Reader reader(ByteSpan(data, size));
  const auto names = readCommonFiles(reader);
  if (!names.ok()) return 0;
  if (names.value().empty() || names.value().size() > kMaxBasisFiles) std::abort();
  Bytes again;
  writeCommonFiles(again, names.value());
  const size_t read = size - reader.remaining();
  if (!std::equal(data, data + read, again.begin(), again.end())) std::abort();
  return 0;
}
