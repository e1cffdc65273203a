// A basis in memory for fuzz targets.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#include "io/basis.h"
#include "io/file.h"

namespace deltahop {

/// Bytes that hardly repeat, the same in every run.
inline Basis fuzzBasis(uint64_t bytes, uint32_t blockBytes) {
  File file(::memfd_create("basis", MFD_CLOEXEC));
  Bytes content(bytes);
  for (size_t i = 0; i < content.size(); ++i) {
    content[i] = static_cast<uint8_t>(static_cast<uint32_t>(i) * 2654435761u >> 24);
  }
  if (!file.writeAt(0, content).ok()) std::abort();
  std::vector<File> files;
  files.push_back(std::move(file));
  return Basis::make(std::move(files), blockBytes).value();
}

}  // namespace deltahop
