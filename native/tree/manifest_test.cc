// Manifests there and back, and what a hostile one may not say.
#include "tree/manifest.h"

#include "base/test_support.h"
#include "tree/overlay_diff.h"
#include "tree/scan.h"
#include "tree/tree_plan.h"
#include "tree/tree_test_support.h"
#include "wire/writer.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
// As in the sanitizers' allocator_interface.h, which g++ does not install.
extern "C" size_t __sanitizer_get_current_allocated_bytes();
#endif

namespace deltahop {
namespace {

ByteSpan text(std::string_view value) {
  return {reinterpret_cast<const uint8_t*>(value.data()), value.size()};
}

Tree scan(const std::string& path) {
  auto root = Directory::openRoot(path);
  DH_REQUIRE_OK(root);
  Notes notes;
  auto scanned = scanTree(root.value(), {}, notes);
  DH_REQUIRE_OK(scanned);
  REQUIRE(scanned.value().complete);
  return std::move(scanned).value().tree;
}

Bytes encode(const Tree& tree) {
  Bytes all;
  ManifestEncoder encoder(tree);
  while (encoder.next(all, SIZE_MAX)) {
  }
  return all;
}

// Writes manifests by hand, right or wrong.
class HandMade {
 public:
  HandMade() : writer_(bytes_) { root(); }
  // The first entry defines attributes 0: a directory, and the empty list of extended attributes.
  void root() {
    writer_.u8(4);
    attributes(S_IFDIR | 0755, 0);
    writer_.varint(0);
    writer_.varint(0);
    writer_.varint(0);
  }
  void attributes(uint32_t mode, uint32_t list) {
    writer_.varint(mode);
    writer_.varint(0);
    writer_.varint(0);
    writer_.varint(list);
  }
  void start(uint8_t flags, uint64_t up, uint64_t shared, std::string_view rest) {
    writer_.u8(flags);
    writer_.varint(up);
    writer_.varint(shared);
    writer_.bytes(text(rest));
  }
  // A regular file of one byte, with the mtime of the entry before.
  HandMade& file(uint64_t up, std::string_view name, uint64_t shared = 0) {
    start(4 | 16, up, shared, name);
    attributes(S_IFREG | 0644, 0);
    writer_.varint(1);
    return *this;
  }
  HandMade& directory(uint64_t up, std::string_view name) {
    start(4 | 16, up, 0, name);
    attributes(S_IFDIR | 0700, 0);
    return *this;
  }
  Writer& raw() { return writer_; }
  Code refusal(uint64_t entries = 0) {
    ManifestDecoder decoder;
    const Status fed = decoder.feed(bytes_);
    if (!fed.ok()) return fed.error().code;
    const auto tree = decoder.finish(entries);
    REQUIRE(!tree.ok());
    return tree.error().code;
  }
  bool accepted(uint64_t entries) {
    ManifestDecoder decoder;
    return decoder.feed(bytes_).ok() && decoder.finish(entries).ok();
  }

 private:
  Bytes bytes_;
  Writer writer_;
};

TEST_CASE("a scanned tree survives its manifest, wherever that is cut") {
  TestDirectory directory;
  const std::string root = directory.path("tree");
  for (uint64_t seed = 1; seed < 6; ++seed) {
    RandomTree(root, seed).mutate(200);
    const Tree tree = scan(root);
    const Bytes all = encode(tree);
    for (const size_t pieceBytes : {size_t{1}, size_t{100}, size_t{5000}}) {
      ManifestEncoder encoder(tree);
      ManifestDecoder decoder;
      Bytes joined;
      for (bool more = true; more;) {
        Bytes piece;
        more = encoder.next(piece, pieceBytes);
        joined.insert(joined.end(), piece.begin(), piece.end());
        DH_REQUIRE_OK(decoder.feed(piece));
      }
      CHECK(joined == all);
      auto decoded = decoder.finish(tree.size());
      DH_REQUIRE_OK(decoded);
      CHECK(encode(decoded.value()) == all);
      CHECK(manifestDigest(decoded.value()) == manifestDigest(tree));
      CHECK(manifestDigest(tree) == blake3(all));
      const TreePlan plan = planTree(tree, decoded.value(), false);
      CHECK(plan.deletes.empty());
      for (const Action action : plan.actions) CHECK(action == Action::kSettled);
      for (uint32_t index = 0; index < tree.size(); ++index) {
        REQUIRE(sameMetadata(tree, index, decoded.value(), index));
        REQUIRE(tree.path(index) == decoded.value().path(index));
        REQUIRE(tree.entry(index).leader == decoded.value().entry(index).leader);
      }
    }
    // Every truncation is refused, or is shorter by whole entries.
    for (size_t length = 0; length < std::min<size_t>(all.size(), 1000); ++length) {
      ManifestDecoder decoder;
      if (decoder.feed(ByteSpan(all).first(length)).ok()) CHECK(!decoder.finish(tree.size()).ok());
    }
  }
}

TEST_CASE("times before 1970 and far ahead survive") {
  TestDirectory directory;
  const std::string root = directory.path("tree");
  ::mkdir(root.c_str(), 0755);
  writeTestFile(root + "/old", {});
  writeTestFile(root + "/new", {});
  setMtime(root + "/old", -5, 999'999'999);
  setMtime(root + "/new", 9'000'000'000, 1);
  const Tree tree = scan(root);
  ManifestDecoder decoder;
  DH_REQUIRE_OK(decoder.feed(encode(tree)));
  auto decoded = decoder.finish(3);
  DH_REQUIRE_OK(decoded);
  CHECK(decoded.value().entry(2).mtimeSeconds == tree.entry(2).mtimeSeconds);
  CHECK(decoded.value().entry(2).mtimeSeconds == -5);
  CHECK(decoded.value().entry(1).mtimeSeconds == tree.entry(1).mtimeSeconds);
}

TEST_CASE("hostile manifests are refused") {
  CHECK(HandMade().file(0, "a").accepted(2));
  CHECK(HandMade().directory(0, "d").file(0, "a").file(1, "b").file(2, "e").accepted(5));
  SUBCASE("names") {
    for (const std::string_view name :
         {std::string_view(""), std::string_view("."), std::string_view(".."), std::string_view("/etc"),
          std::string_view("a/b"), std::string_view("a\0b", 3), std::string_view(".deltahop-partial")}) {
      CHECK(HandMade().file(0, name).refusal() == Code::kUnsafePath);
    }
    CHECK(HandMade().file(0, std::string(256, 'x')).refusal() == Code::kLimit);
    // ".." put together from a shared beginning.
    CHECK(HandMade().file(0, ".a").file(1, ".", 1).refusal() == Code::kUnsafePath);
    CHECK(HandMade().file(0, ".deltahop-partiak").file(1, "l", 16).refusal() == Code::kUnsafePath);
    // Deeper down the reserved name is a name like any other.
    CHECK(HandMade().directory(0, "d").file(0, ".deltahop-partial").accepted(3));
  }
  SUBCASE("order and duplicates") {
    CHECK(HandMade().file(0, "b").file(1, "a").refusal() == Code::kCorrupt);
    CHECK(HandMade().file(0, "a").file(1, "a").refusal() == Code::kCorrupt);
    CHECK(HandMade().file(0, "a").file(1, "", 1).refusal() == Code::kCorrupt);
    CHECK(HandMade().directory(0, "d").file(0, "x").directory(2, "d").refusal() == Code::kCorrupt);
    CHECK(HandMade().file(0, "a").file(1, "b", 2).refusal() == Code::kLimit);
  }
  SUBCASE("shape") {
    CHECK(HandMade().file(0, "a").file(0, "b").refusal() == Code::kCorrupt);  // beneath a file
    CHECK(HandMade().file(0, "a").file(2, "b").refusal() == Code::kLimit);    // above the root
    CHECK(HandMade().file(1, "a").refusal() == Code::kLimit);
    CHECK(HandMade().refusal(2) == Code::kCorrupt);  // fewer than announced
    HandMade deep;
    for (uint32_t i = 0; i < kMaxTreeDepth; ++i) deep.directory(0, "d");
    CHECK(deep.accepted(kMaxTreeDepth + 1));
    deep.directory(0, "d");
    CHECK(deep.refusal() == Code::kLimit);
    ManifestDecoder none;
    CHECK(none.finish(0).error().code == Code::kCorrupt);
  }
  SUBCASE("a root that is no directory") {
    Bytes bytes;
    Writer writer(bytes);
    writer.u8(4);
    for (const uint32_t value : {uint32_t{S_IFREG | 0644}, 0u, 0u, 0u, 0u, 0u, 0u}) writer.varint(value);
    ManifestDecoder decoder;
    CHECK(decoder.feed(bytes).error().code == Code::kCorrupt);
  }
  SUBCASE("hard links") {
    const auto link = [](uint64_t distance) {
      HandMade made;
      made.directory(0, "a").file(1, "b");
      made.start(2, 1, 0, "c");
      made.raw().varint(distance);
      return made;
    };
    CHECK(link(1).accepted(4));
    CHECK(link(0).refusal() == Code::kCorrupt);         // itself
    CHECK(link(2).refusal() == Code::kCorrupt);         // a directory
    CHECK(link(3).refusal() == Code::kCorrupt);         // the root
    CHECK(link(4).refusal() == Code::kLimit);           // before the root
    CHECK(link(UINT64_MAX).refusal() == Code::kLimit);  // or after itself
    HandMade chain = link(1);
    chain.start(2, 1, 0, "d");
    chain.raw().varint(1);
    CHECK(chain.refusal() == Code::kCorrupt);  // a link to a link
  }
  SUBCASE("tables, types and values") {
    HandMade unknownTable;
    unknownTable.start(16, 0, 0, "a");
    unknownTable.raw().varint(1);
    CHECK(unknownTable.refusal() == Code::kLimit);
    HandMade socket;
    socket.start(4 | 16, 0, 0, "a");
    socket.attributes(S_IFSOCK | 0644, 0);
    CHECK(socket.refusal() == Code::kUnsupported);
    HandMade large;
    large.start(4 | 16, 0, 0, "a");
    large.attributes(S_IFREG | 0644, 0);
    large.raw().varint(UINT64_MAX);
    CHECK(large.refusal() == Code::kLimit);
    HandMade nanoseconds;
    nanoseconds.start(8, 0, 0, "a");
    nanoseconds.raw().varint(0);
    nanoseconds.raw().varint(1'000'000'000);
    CHECK(nanoseconds.refusal() == Code::kLimit);
    HandMade flags;
    flags.start(32, 0, 0, "a");
    CHECK(flags.refusal() == Code::kCorrupt);
    HandMade digest;
    digest.start(1 | 8 | 16, 0, 0, "a");
    CHECK(digest.refusal() == Code::kCorrupt);  // of a directory
    HandMade target;
    target.start(4 | 16, 0, 0, "a");
    target.attributes(S_IFLNK | 0777, 0);
    target.raw().bytes(text(std::string_view("x\0y", 3)));
    CHECK(target.refusal() == Code::kCorrupt);
    HandMade count;
    count.start(4 | 16, 0, 0, "a");
    count.attributes(S_IFREG | 0644, 1);
    count.raw().varint(UINT64_MAX);
    CHECK(count.refusal() == Code::kLimit);  // a huge number of attributes
    HandMade order;
    order.start(4 | 16, 0, 0, "a");
    order.attributes(S_IFREG | 0644, 1);
    order.raw().varint(2);
    for (const char* name : {"user.b", "user.a"}) {
      order.raw().bytes(text(name));
      order.raw().bytes(text("v"));
    }
    CHECK(order.refusal() == Code::kCorrupt);
  }
}

// What this process holds. A sanitizer keeps freed memory for a while and has shadows of its own, which are not ours;
// it counts what is allocated instead.
uint64_t heldBytes() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return __sanitizer_get_current_allocated_bytes();
#else
  std::ifstream file("/proc/self/statm");
  uint64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
#endif
}

TEST_CASE("a million entries with their digests stay under 100 MB") {
  const uint64_t before = heldBytes();
  Tree tree;
  const auto attributes = tree.internAttributes(Attributes{S_IFREG | 0644, 0, 0, 0});
  DH_REQUIRE_OK(attributes);
  for (uint32_t index = 0; index < 1'000'000; ++index) {
    Entry entry;
    entry.attributes = attributes.value();
    entry.depth = index > 0;
    entry.parent = index > 0 ? 0 : kNoEntry;
    DH_REQUIRE_OK(tree.append("name-of-a-file-" + std::to_string(index) + ".so", entry));
    tree.setDigest(index, Digest{});
  }
  CHECK(heldBytes() - before < 100'000'000);
}

// What base and upper directory look like together, by overlayfs's rules.
TreeModel overlaid(const TreeModel& base, const TreeModel& leaders, const TreeModel& upper) {
  const std::string opaque = " xattr trusted.overlay.opaque=79";
  TreeModel merged = base;
  const auto dropBeneath = [&](const std::string& path, bool itself) {
    if (itself) merged.erase(path);
    merged.erase(merged.lower_bound(path + "/"), merged.lower_bound(path + "0"));
  };
  for (const auto& [path, text] : upper) {
    if (text.find(" device 0:0") != std::string::npos) {
      dropBeneath(path, true);
      continue;
    }
    std::string plain = text;
    const auto found = base.find(path);
    const auto isDirectory = [](const std::string& line) {
      return S_ISDIR(static_cast<mode_t>(std::stoul(line.substr(std::strlen("mode ")))));
    };
    const bool bothDirectories = found != base.end() && isDirectory(found->second) && isDirectory(text);
    const size_t at = plain.find(opaque);
    if (at != std::string::npos) plain.erase(at, opaque.size());
    if (!bothDirectories || at != std::string::npos) dropBeneath(path, false);
    merged[path] = plain;
  }
  // Of links in the base whose first name is gone, the next one is the first.
  TreeModel firsts;
  for (auto& [path, text] : merged) {
    const auto leader = leaders.find(path);
    if (leader == leaders.end() || upper.contains(path)) continue;
    const std::string link = " link " + leader->second;
    const auto [first, isNew] = firsts.try_emplace(leader->second, path);
    const size_t at = leader->second == path ? std::string::npos : text.find(link);
    if (at != std::string::npos) text.replace(at, link.size(), isNew ? "" : " link " + first->second);
  }
  return merged;
}

TEST_CASE("an overlay's upper directory over its base is the whole tree") {
  if (!isRoot()) {
    MESSAGE("skipped: whiteouts and trusted attributes need root");
    return;
  }
  TestDirectory directory;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    const std::string base = directory.path("base" + std::to_string(seed));
    const std::string full = directory.path("full" + std::to_string(seed));
    RandomTree(base, seed).mutate(150);
    REQUIRE(std::system(("cp -a " + base + " " + full).c_str()) == 0);
    RandomTree(full, seed + 100).mutate(seed % 2 ? 15 : 150);
    // A whole whiteout in the tree itself cannot be told apart and is refused; random devices may be one.
    const std::string removed = "find " + full + " " + base + " -type c -delete";
    REQUIRE(std::system(removed.c_str()) == 0);
    auto baseRoot = Directory::openRoot(base);
    auto fullRoot = Directory::openRoot(full);
    DH_REQUIRE_OK(baseRoot);
    DH_REQUIRE_OK(fullRoot);
    const auto diff = overlayDiff(baseRoot.value(), scan(base), fullRoot.value(), scan(full));
    DH_REQUIRE_OK(diff);
    // The difference is a tree like any other: sorted, and readable as a manifest.
    ManifestDecoder decoder;
    DH_REQUIRE_OK(decoder.feed(encode(diff.value())));
    DH_REQUIRE_OK(decoder.finish(diff.value().size()));
    // Model of the upper directory: the entries of `full` that were chosen.
    const TreeModel fullModel = modelOf(full);
    TreeModel upper;
    for (uint32_t index = 0; index < diff.value().size(); ++index) {
      const std::string path = index == 0 ? "." : "./" + diff.value().path(index);
      if (diff.value().isWhiteout(index)) {
        upper[path] = "mode 8192 device 0:0";
        continue;
      }
      const auto found = fullModel.find(path);
      REQUIRE(found != fullModel.end());
      upper[path] = found->second;
      const XattrList& xattrs = diff.value().xattrs(index);
      if (std::find(xattrs.begin(), xattrs.end(), Xattr{"trusted.overlay.opaque", "y"}) != xattrs.end()) {
        upper[path] += " xattr trusted.overlay.opaque=79";
      }
    }
    TreeModel leaders;
    const TreeModel baseModel = modelOf(base, &leaders);
    const TreeModel merged = overlaid(baseModel, leaders, upper);
    for (const auto& [path, line] : fullModel) {
      const auto found = merged.find(path);
      if (found == merged.end()) FAIL("missing ", path);
      if (found->second != line) FAIL(path, "\n ", line, "\n ", found->second);
    }
    for (const auto& [path, line] : merged) {
      if (!fullModel.contains(path)) FAIL("too many ", path);
    }
    if (baseModel == fullModel) CHECK(diff.value().size() == 1);
  }
}

TEST_CASE("an unchanged file is not part of the difference, a changed one of equal times is") {
  TestDirectory directory;
  for (const char* name : {"base", "full"}) {
    const std::string root = directory.path(name);
    ::mkdir(root.c_str(), 0755);
    writeTestFile(root + "/same", Bytes(300'000, 1));
    writeTestFile(root + "/other", Bytes(300'000, name[0] == 'b' ? 2 : 3));
    ::mkdir((root + "/dir").c_str(), 0755);
    if (name[0] == 'b') writeTestFile(root + "/dir/gone", Bytes{1});
    for (const char* entry : {"/same", "/other", "/dir", ""}) setMtime(root + entry, 50, 60);
  }
  auto baseRoot = Directory::openRoot(directory.path("base"));
  auto fullRoot = Directory::openRoot(directory.path("full"));
  const auto diff =
      overlayDiff(baseRoot.value(), scan(directory.path("base")), fullRoot.value(), scan(directory.path("full")));
  DH_REQUIRE_OK(diff);
  std::vector<std::string> paths;
  for (uint32_t index = 0; index < diff.value().size(); ++index) paths.push_back(diff.value().path(index));
  CHECK(paths == std::vector<std::string>{"", "dir", "other"});
  // The directory kept none of its names: opaque, no whiteouts.
  CHECK(diff.value().xattrs(1) == XattrList{Xattr{"trusted.overlay.opaque", "y"}});
}

}  // namespace
}  // namespace deltahop
