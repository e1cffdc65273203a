#include "match/page_index.h"

#include <bit>

namespace deltahop {
namespace {

constexpr unsigned kMaxProbes = 16;

}  // namespace

PageIndex::PageIndex(uint64_t entries) {
  if (entries == 0) return;
  slots_.resize(std::bit_ceil(entries + entries / 3 + kMaxProbes));
  shift_ = 64 - static_cast<unsigned>(std::bit_width(slots_.size()) - 1);
}

void PageIndex::add(uint64_t hash, uint32_t page) {
  if (slots_.empty()) return;
  const auto tag = static_cast<uint32_t>(hash);
  for (unsigned probe = 0; probe < kMaxProbes; ++probe) {
    Slot& slot = slots_[((hash >> shift_) + probe) & (slots_.size() - 1)];
    if (slot.pagePlusOne == 0) {
      slot = {tag, page + 1};
      return;
    }
    if (slot.tag == tag) return;
  }
}

uint32_t PageIndex::find(uint64_t hash) const {
  if (slots_.empty()) return kNone;
  const auto tag = static_cast<uint32_t>(hash);
  for (unsigned probe = 0; probe < kMaxProbes; ++probe) {
    const Slot& slot = slots_[((hash >> shift_) + probe) & (slots_.size() - 1)];
    if (slot.pagePlusOne == 0) return kNone;
    if (slot.tag == tag) return slot.pagePlusOne - 1;
  }
  return kNone;
}

}  // namespace deltahop
