// Entries of a tree, packed: neighbours have most in common, and what they have not is small.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace deltahop {

inline constexpr uint32_t kNoEntry = UINT32_MAX;

/// One entry; its texts and tables are the Tree's.
struct Entry {
  int64_t mtimeSeconds = 0;
  uint64_t value = 0;  // regular file: bytes; device: dev_t; symlink: index of its target; else 0
  uint32_t mtimeNanoseconds = 0;
  uint32_t parent = kNoEntry;
  uint32_t attributes = 0;
  uint32_t leader = kNoEntry;  // the earlier entry of which this one is a further hard link
  uint16_t depth = 0;          // 0 is the root itself
  bool operator==(const Entry&) const = default;
};

/// Some entries and their names, never changed. Of each field it holds the least value and, in as many bits as the
/// greatest needs, by how much each is above it.
class EntryBlock {
 public:
  /// `names`: one behind the other; `nameEnds`: where each ends.
  EntryBlock(std::span<const Entry> entries, std::string_view names, std::span<const uint32_t> nameEnds);

  Entry entry(uint32_t at) const;
  uint64_t value(uint32_t at) const { return get(kValue, at); }
  uint32_t parent(uint32_t at) const { return static_cast<uint32_t>(get(kParent, at)); }
  uint32_t attributes(uint32_t at) const { return static_cast<uint32_t>(get(kAttributes, at)); }
  uint32_t leader(uint32_t at) const { return static_cast<uint32_t>(get(kLeader, at)); }
  uint16_t depth(uint32_t at) const { return static_cast<uint16_t>(get(kDepth, at)); }
  std::string_view name(uint32_t at) const {
    const uint64_t begin = at > 0 ? get(kNameEnd, at - 1) : 0;
    return std::string_view(names_).substr(begin, get(kNameEnd, at) - begin);
  }

 private:
  enum Field { kSeconds, kNanoseconds, kValue, kParent, kAttributes, kLeader, kDepth, kNameEnd, kFields };
  struct Column {
    uint64_t least = 0;
    uint32_t begin = 0;  // in bits_, in words
    uint32_t width = 0;  // in bits
  };

  uint64_t get(Field field, uint32_t at) const {
    const Column& column = columns_[field];
    if (column.width == 0) return column.least;
    const uint32_t bit = at * column.width;
    const uint64_t* word = bits_.data() + column.begin + bit / 64;
    const uint32_t shift = bit % 64;
    uint64_t above = word[0] >> shift;
    if (shift + column.width > 64) above |= word[1] << (64 - shift);
    return column.least + (above & (UINT64_MAX >> (64 - column.width)));
  }

  std::array<Column, kFields> columns_;
  std::vector<uint64_t> bits_;
  std::string names_;
};

}  // namespace deltahop
