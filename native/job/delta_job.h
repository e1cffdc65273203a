// The job behind `delta`: a target, seen against a signature, becomes a delta stream.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "codec/delta_encoder.h"
#include "job/job.h"

namespace deltahop {

struct DeltaJobOptions {
  Bytes signature;                        // a whole signature stream
  std::optional<std::string> targetPath;  // else the target is the job's input
  int zstdLevel = kDefaultZstdLevel;      // 1 to 19
};

/// Output: a delta stream. Statistics: targetBytes, readBytes, matchedBytes, literalBytes, literalEncodedBytes,
/// zeroBytes, falseMatches, sentBytes. The report's text is the target's content digest.
std::unique_ptr<Job> makeDeltaJob(DeltaJobOptions options);

}  // namespace deltahop
