// The job behind `patch`: a basis and a delta stream (the job's input) become the target.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "job/job.h"

namespace deltahop {

struct PatchJobOptions {
  std::string basisPath;
  std::optional<std::string> outputPath;  // else the target is the job's output
};

/// With `outputPath` (which may be the basis itself) the target is written to a private file beside it, verified,
/// synced and renamed over it: never half-written under its name, and nothing is left of a job that failed. Without it
/// the digest can be checked only after the last byte was given: the outcome decides. Statistics: targetBytes,
/// matchedBytes, literalBytes, zeroBytes, receivedBytes. The report's text is the content digest.
std::unique_ptr<Job> makePatchJob(PatchJobOptions options);

}  // namespace deltahop
