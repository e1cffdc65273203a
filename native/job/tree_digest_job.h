// The digest of a tree at rest.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "job/job.h"

namespace deltahop {

struct TreeDigestJobOptions {
  std::string rootPath;
  std::vector<std::string> excludeXattrs;  // full names
};

/// No input, no output. The report's text is the tree digest (FORMATS.md section 1); statistics: files, bytes, entries,
/// scanMs, digestMs. kChanged if a file changes meanwhile, kIo if anything cannot be read.
std::unique_ptr<Job> makeTreeDigestJob(TreeDigestJobOptions options);

}  // namespace deltahop
