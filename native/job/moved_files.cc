#include "job/moved_files.h"

#include <algorithm>

namespace deltahop {
namespace {

// Of files of one size no more are looked at.
constexpr int kMaxCandidates = 64;

}  // namespace

uint32_t MovedFiles::find(uint32_t wanted) {
  if (!isIndexed_) {
    isIndexed_ = true;
    for (uint32_t index = 0; index < own_.size(); ++index) {
      if (own_.isRegular(index) && !own_.isFollower(index)) bySize_.emplace_back(own_.fileBytes(index), index);
    }
    std::sort(bySize_.begin(), bySize_.end());
  }
  // Moved: name or time are the same, mostly both; copied: the name.
  const Entry entry = wanted_.entry(wanted);
  uint32_t best = kNoEntry;
  int bestMarks = 0;
  int candidates = 0;
  const uint64_t bytes = wanted_.fileBytes(wanted);
  auto at = std::lower_bound(bySize_.begin(), bySize_.end(), std::pair<uint64_t, uint32_t>(bytes, 0));
  for (; at != bySize_.end() && at->first == bytes && candidates < kMaxCandidates && bestMarks < 3;
       ++at, ++candidates) {
    const Entry other = own_.entry(at->second);
    const bool sameTime = other.mtimeSeconds == entry.mtimeSeconds && other.mtimeNanoseconds == entry.mtimeNanoseconds;
    const int marks = (sameTime ? 2 : 0) + (own_.name(at->second) == wanted_.name(wanted) ? 1 : 0);
    if (marks <= bestMarks) continue;
    best = at->second;
    bestMarks = marks;
  }
  return best;
}

}  // namespace deltahop
