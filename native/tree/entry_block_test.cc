// What goes into a block comes out of it again, whatever its fields hold.
#include "tree/entry_block.h"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

namespace deltahop {
namespace {

void checkBlock(const std::vector<Entry>& entries, const std::vector<std::string>& names) {
  std::string all;
  std::vector<uint32_t> ends;
  for (const std::string& name : names) ends.push_back(static_cast<uint32_t>((all += name).size()));
  const EntryBlock block(entries, all, ends);
  for (uint32_t at = 0; at < entries.size(); ++at) {
    CAPTURE(at);
    CHECK(block.entry(at) == entries[at]);
    CHECK(block.value(at) == entries[at].value);
    CHECK(block.parent(at) == entries[at].parent);
    CHECK(block.attributes(at) == entries[at].attributes);
    CHECK(block.leader(at) == entries[at].leader);
    CHECK(block.depth(at) == entries[at].depth);
    CHECK(block.name(at) == names[at]);
  }
}

TEST_CASE("entries that are all alike, and one alone") {
  checkBlock(std::vector<Entry>(7), std::vector<std::string>(7));
  checkBlock({Entry{-1, 1, 2, 3, 4, 5, 6}}, {"name"});
}

TEST_CASE("the least and the greatest values beside each other") {
  const Entry least{INT64_MIN, 0, 0, 0, 0, 0, 0};
  const Entry greatest{INT64_MAX, UINT64_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT16_MAX};
  checkBlock({least, greatest, least, Entry(), greatest}, {"", std::string(255, 'x'), "", "a", "bc"});
}

TEST_CASE("fields of every width") {
  std::mt19937_64 random(1);
  for (int width = 0; width < 64; ++width) {
    CAPTURE(width);
    std::vector<Entry> entries;
    std::vector<std::string> names;
    const auto drawn = [&] { return random() >> (63 - width); };
    for (int i = 0; i < 256; ++i) {
      entries.push_back({static_cast<int64_t>(drawn()) - 5, drawn(), static_cast<uint32_t>(drawn()),
                         static_cast<uint32_t>(drawn()), static_cast<uint32_t>(drawn()), static_cast<uint32_t>(drawn()),
                         static_cast<uint16_t>(drawn())});
      names.emplace_back(random() % 256, 'n');
    }
    checkBlock(entries, names);
  }
}

}  // namespace
}  // namespace deltahop
