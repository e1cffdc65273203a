// Nothing beneath a held directory leads outside of it.
#include "io/directory.h"

#include <fcntl.h>

#include "base/test_support.h"

namespace deltahop {
namespace {

struct DirectoryFixture {
  DirectoryFixture() {
    for (const char* name : {"outside", "root", "root/sub", "root/sub/deep"}) {
      REQUIRE(::mkdir(directory.path(name).c_str(), 0755) == 0);
    }
    writeTestFile(directory.path("outside/secret"), Bytes{1});
    writeTestFile(directory.path("root/sub/file"), Bytes{2});
    REQUIRE(::symlink("../outside", directory.path("root/out").c_str()) == 0);
    REQUIRE(::symlink("sub", directory.path("root/in").c_str()) == 0);
    REQUIRE(::symlink("../../outside/secret", directory.path("root/sub/link").c_str()) == 0);
    auto opened = Directory::openRoot(directory.path("root"));
    DH_REQUIRE_OK(opened);
    root = std::move(opened).value();
  }
  TestDirectory directory;
  Directory root;
};

TEST_CASE_FIXTURE(DirectoryFixture, "only safe names are taken") {
  for (const std::string& name : {std::string(), std::string("."), std::string(".."), std::string("/"),
                                  std::string("sub/file"), std::string("a\0b", 3), std::string(256, 'x')}) {
    CHECK(!isSafeName(name));
    CHECK(root.open(name, O_RDONLY).error().code == Code::kUnsafePath);
    CHECK(root.status(name).error().code == Code::kUnsafePath);
    CHECK(root.unlink(name).error().code == Code::kUnsafePath);
    CHECK(root.makeDirectory(name, 0755).error().code == Code::kUnsafePath);
    CHECK(root.rename("sub", root, name).error().code == Code::kUnsafePath);
    CHECK(root.link("sub", root, name).error().code == Code::kUnsafePath);
    CHECK(root.makeSymlink("x", name).error().code == Code::kUnsafePath);
    CHECK(root.makeNode(name, S_IFIFO | 0600, 0).error().code == Code::kUnsafePath);
    CHECK(root.removeTree(name).error().code == Code::kUnsafePath);
    CHECK(root.readLink(name).error().code == Code::kUnsafePath);
  }
  for (const char* path : {"..", "/etc", "sub/..", "sub//deep", "sub/", "./sub", "sub/../sub"}) {
    CHECK(root.openBeneath(path).error().code == Code::kUnsafePath);
  }
}

TEST_CASE_FIXTURE(DirectoryFixture, "symlinks are never followed, wherever they lead") {
  CHECK(root.openBeneath("sub/deep").ok());
  CHECK(root.openBeneath("out").error().code == Code::kUnsafePath);
  CHECK(root.openBeneath("in").error().code == Code::kUnsafePath);
  CHECK(root.openBeneath("in/deep").error().code == Code::kUnsafePath);
  auto sub = root.openBeneath("sub");
  DH_REQUIRE_OK(sub);
  CHECK(sub.value().openRegular("file").ok());
  CHECK(sub.value().openRegular("link").error().code == Code::kChanged);
  CHECK(sub.value().open("link", O_WRONLY).error().code == Code::kUnsafePath);
  CHECK(sub.value().readLink("link").value() == "../../outside/secret");
  DH_REQUIRE_OK(root.removeTree("out"));
  CHECK(readTestFile(directory.path("outside/secret")) == Bytes{1});
}

TEST_CASE_FIXTURE(DirectoryFixture, "a fifo is no file and nobody waits for it") {
  REQUIRE(::mkfifo(directory.path("root/fifo").c_str(), 0600) == 0);
  CHECK(root.openRegular("fifo").error().code == Code::kChanged);
  CHECK(root.openRegular("sub").error().code == Code::kChanged);
}

TEST_CASE_FIXTURE(DirectoryFixture, "deep trees are reached and removed") {
  std::string path;
  Directory at = root.openBeneath({}).value();
  // Far over the 4096 bytes that one system call takes.
  for (int i = 0; i < 60; ++i) {
    const std::string name(200, static_cast<char>('a' + i % 26));
    DH_REQUIRE_OK(at.makeDirectory(name, 0755));
    at = at.openBeneath(name).value();
    path += (path.empty() ? "" : "/") + name;
  }
  DH_REQUIRE_OK(root.openBeneath(path));
  const auto removed = root.removeTree(std::string(200, 'a'));
  DH_REQUIRE_OK(removed);
  CHECK(removed.value() == 60);
  CHECK(root.names().value() == std::vector<std::string>{"in", "out", "sub"});
  CHECK(root.removeTree("nothing").value() == 0);
}

TEST_CASE_FIXTURE(DirectoryFixture, "a root is made if only its last component is missing") {
  CHECK(Directory::openOrMakeRoot(directory.path("new")).ok());
  CHECK(Directory::openOrMakeRoot(directory.path("new")).ok());
  CHECK(Directory::openOrMakeRoot(directory.path("a/b")).error().code == Code::kNotFound);
  CHECK(Directory::openRoot(directory.path("outside/secret")).error().sysErrno == ENOTDIR);
}

}  // namespace
}  // namespace deltahop
