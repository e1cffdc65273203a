// Where content lies: pages by a hash of theirs.
#pragma once

#include <cstdint>
#include <vector>

namespace deltahop {

/// A table of fixed size, 11 to 21 bytes an entry. Of equal hashes the first is kept; what finds no room nearby is left
/// out, so neither filling nor asking depends on what the content is.
class PageIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  /// Room for this many entries; 0 for an index that finds nothing.
  explicit PageIndex(uint64_t entries = 0);
  void add(uint64_t hash, uint32_t page);
  /// A page that was added with this hash (or one much like it), or kNone.
  uint32_t find(uint64_t hash) const;

 private:
  struct Slot {
    uint32_t tag = 0;
    uint32_t pagePlusOne = 0;
  };
  std::vector<Slot> slots_;
  unsigned shift_ = 64;
};

}  // namespace deltahop
