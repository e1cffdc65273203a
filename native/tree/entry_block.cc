#include "tree/entry_block.h"

#include <algorithm>
#include <bit>

namespace deltahop {
namespace {

// In the order of the numbers, so that few bits tell neighbouring times apart.
constexpr uint64_t kSign = uint64_t{1} << 63;

}  // namespace

EntryBlock::EntryBlock(std::span<const Entry> entries, std::string_view names, std::span<const uint32_t> nameEnds)
    : names_(names) {
  const auto fieldOf = [&](int field, size_t at) -> uint64_t {
    const Entry& entry = entries[at];
    switch (field) {
      case kSeconds:
        return static_cast<uint64_t>(entry.mtimeSeconds) ^ kSign;
      case kNanoseconds:
        return entry.mtimeNanoseconds;
      case kValue:
        return entry.value;
      case kParent:
        return entry.parent;
      case kAttributes:
        return entry.attributes;
      case kLeader:
        return entry.leader;
      case kDepth:
        return entry.depth;
      default:
        return nameEnds[at];
    }
  };
  uint32_t words = 0;
  for (int field = 0; field < kFields; ++field) {
    Column& column = columns_[field];
    uint64_t greatest = column.least = fieldOf(field, 0);
    for (size_t at = 1; at < entries.size(); ++at) {
      column.least = std::min(column.least, fieldOf(field, at));
      greatest = std::max(greatest, fieldOf(field, at));
    }
    column.width = static_cast<uint32_t>(std::bit_width(greatest - column.least));
    column.begin = words;
    words += static_cast<uint32_t>((entries.size() * column.width + 63) / 64);
  }
  bits_.resize(words);
  for (int field = 0; field < kFields; ++field) {
    const Column& column = columns_[field];
    if (column.width == 0) continue;
    uint64_t* word = bits_.data() + column.begin;
    uint32_t shift = 0;
    for (size_t at = 0; at < entries.size(); ++at) {
      const uint64_t above = fieldOf(field, at) - column.least;
      *word |= above << shift;
      if (shift + column.width > 64) word[1] |= above >> (64 - shift);
      shift += column.width;
      word += shift / 64;
      shift %= 64;
    }
  }
}

Entry EntryBlock::entry(uint32_t at) const {
  Entry entry;
  entry.mtimeSeconds = static_cast<int64_t>(get(kSeconds, at) ^ kSign);
  entry.mtimeNanoseconds = static_cast<uint32_t>(get(kNanoseconds, at));
  entry.value = value(at);
  entry.parent = parent(at);
  entry.attributes = attributes(at);
  entry.leader = leader(at);
  entry.depth = depth(at);
  return entry;
}

}  // namespace deltahop
