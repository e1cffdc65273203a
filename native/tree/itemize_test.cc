// Lines of an itemised list, as users of rsync read them.
#include "tree/itemize.h"

#include <doctest/doctest.h>

namespace deltahop {
namespace {

uint32_t add(Tree& tree, uint32_t parent, std::string_view name, uint32_t mode, uint64_t value, int64_t mtime = 1) {
  Entry entry;
  entry.parent = parent;
  entry.depth = parent == kNoEntry ? 0 : static_cast<uint16_t>(tree.depth(parent) + 1);
  entry.mtimeSeconds = mtime;
  entry.value = value;
  entry.attributes = tree.internAttributes(Attributes{mode, 0, 0, 0}).value();
  return tree.append(name, entry).value();
}

std::string itemsOf(const Tree& own, const Tree& wanted, RootItem root = RootItem::kAsItIs) {
  const TreePlan plan = planTree(own, wanted, false);
  return itemize(own, wanted, plan, std::vector<bool>(wanted.size(), false), true, root).text;
}

TEST_CASE("everything is new where nothing is") {
  Tree wanted;
  const uint32_t root = add(wanted, kNoEntry, {}, S_IFDIR | 0755, 0);
  const uint32_t file = add(wanted, root, "a", S_IFREG | 0644, 10);
  add(wanted, root, "b", S_IFREG | 0644, 10);
  Entry follower;
  follower.parent = root;
  follower.depth = 1;
  follower.leader = file;
  follower.mtimeSeconds = 1;
  follower.value = 10;
  follower.attributes = wanted.entry(file).attributes;
  REQUIRE(wanted.append("c", follower).ok());
  const uint32_t target = wanted.addTarget("a").value();
  add(wanted, root, "d", S_IFLNK | 0777, target);
  add(wanted, root, "e", S_IFIFO | 0644, 0);
  add(wanted, root, "f", S_IFCHR | 0644, 259);
  CHECK(itemsOf(Tree(), wanted) ==
        "cd+++++++++ ./\n>f+++++++++ a\n>f+++++++++ b\nhf+++++++++ c => a\ncL+++++++++ d -> a\ncS+++++++++ e\n"
        "cD+++++++++ f\n");
}

TEST_CASE("differences have their letters, deletions come with what is in them") {
  Tree own;
  const uint32_t ownRoot = add(own, kNoEntry, {}, S_IFDIR | 0755, 0);
  const uint32_t gone = add(own, ownRoot, "gone", S_IFDIR | 0755, 0);
  add(own, gone, "inner", S_IFREG | 0644, 1);
  add(own, ownRoot, "grown", S_IFREG | 0644, 10);
  add(own, ownRoot, "mode", S_IFREG | 0644, 10);
  Tree wanted;
  const uint32_t root = add(wanted, kNoEntry, {}, S_IFDIR | 0755, 0);
  add(wanted, root, "grown", S_IFREG | 0644, 11, 2);
  add(wanted, root, "mode", S_IFREG | 0600, 10);
  CHECK(itemsOf(own, wanted) == "*deleting   gone/inner\n*deleting   gone/\n>f.st...... grown\n.f...p..... mode\n");
}

TEST_CASE("names cannot break lines, and what is no UTF-8 is told in octal") {
  Tree wanted;
  const uint32_t root = add(wanted, kNoEntry, {}, S_IFDIR | 0755, 0);
  add(wanted, root, "a\nb", S_IFREG | 0644, 1);
  add(wanted, root, "c\\#d", S_IFREG | 0644, 1);
  add(wanted, root, "e\\f", S_IFREG | 0644, 1);
  add(wanted, root, "g\xff", S_IFREG | 0644, 1);
  add(wanted, root, "h\xc3\xa9", S_IFREG | 0644, 1);
  add(wanted, root, "i\xc2\x9b", S_IFREG | 0644, 1);
  CHECK(itemsOf(Tree(), wanted, RootItem::kApart) ==
        ">f+++++++++ a\\#012b\n>f+++++++++ c\\#134#d\n>f+++++++++ e\\f\n>f+++++++++ g\\#377\n>f+++++++++ h\xc3\xa9\n"
        ">f+++++++++ i\\#302\\#233\n");
}

}  // namespace
}  // namespace deltahop
