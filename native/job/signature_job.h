// The job behind `signature`: the signature of a file or of a stream.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "job/job.h"

namespace deltahop {

struct SignatureJobOptions {
  std::optional<std::string> basisPath;  // else the basis is the job's input
  uint32_t blockBytes = 0;               // a power of two in [512, 64 MiB]; 0: chosen by size (a stream: 4096)
  std::optional<Key> key;                // else drawn at random; a fixed one is for tests
};

/// Output: a signature stream. Statistics: basisBytes, readBytes, blocks, blockBytes, sentBytes.
std::unique_ptr<Job> makeSignatureJob(SignatureJobOptions options);

}  // namespace deltahop
