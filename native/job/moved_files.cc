#include "job/moved_files.h"

namespace deltahop {
namespace {

// Of files of one size no more are looked at.
constexpr int kMaxCandidates = 64;

}  // namespace

uint32_t MovedFiles::find(uint32_t wanted) {
  if (!isIndexed_) {
    isIndexed_ = true;
    for (uint32_t index = 0; index < own_.size(); ++index) {
      if (own_.isRegular(index) && !own_.isFollower(index)) bySize_.emplace(own_.fileBytes(index), index);
    }
  }
  // Moved: name or time are the same, mostly both; copied: the name.
  const Entry& entry = wanted_.entry(wanted);
  uint32_t best = kNoEntry;
  int bestMarks = 0;
  int candidates = 0;
  const auto [begin, end] = bySize_.equal_range(wanted_.fileBytes(wanted));
  for (auto at = begin; at != end && candidates < kMaxCandidates && bestMarks < 3; ++at, ++candidates) {
    const Entry& other = own_.entry(at->second);
    const bool sameTime = other.mtimeSeconds == entry.mtimeSeconds && other.mtimeNanoseconds == entry.mtimeNanoseconds;
    const int marks = (sameTime ? 2 : 0) + (own_.name(at->second) == wanted_.name(wanted) ? 1 : 0);
    if (marks <= bestMarks) continue;
    best = at->second;
    bestMarks = marks;
  }
  return best;
}

}  // namespace deltahop
