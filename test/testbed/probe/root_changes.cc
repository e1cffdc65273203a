#include "root_changes.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string_view>

namespace probe {
namespace {

// Laid there by the layers (test/testbed/probe/probe-service.ts).
constexpr const char* kBaseDeleted = "/etc/deleted-by-instance";
constexpr const char* kBaseDeletedByApp = "/etc/deleted-by-app";
constexpr const char* kAppDeleted = "/opt/probe/deleted-by-instance";
constexpr const char* kReplaced = "/opt/probe/replaced";
constexpr const char* kBaseChanged = "/etc/changed-by-instance";

constexpr const char* kPlain = "/data/plain";
constexpr const char* kAcl = "/data/acl";
constexpr const char* kXattr = "/data/xattr";
constexpr const char* kLinkOne = "/data/link-1";
constexpr const char* kLinkTwo = "/data/sub/link-2";
constexpr const char* kSparse = "/data/sparse";
constexpr const char* kSuid = "/data/suid";
constexpr const char* kOddName = "/data/new\nline \xff\xfe";
constexpr const char* kDangling = "/data/dangling";
constexpr const char* kFifo = "/data/fifo";
constexpr const char* kDone = "/data/.done";

constexpr off_t kSparseBytes = 8 * 1024 * 1024;
constexpr timespec kTime{1234567890, 123456789};

// struct posix_acl_xattr_header and _entry of linux/posix_acl_xattr.h, version 2, little-endian:
// u::rw-, u:1234:r--, g::r--, m::rw-, o::---
constexpr std::array<unsigned char, 44> kAclValue = {
    2,    0, 0, 0,                          //
    1,    0, 6, 0, 0xff, 0xff, 0xff, 0xff,  // ACL_USER_OBJ
    2,    0, 4, 0, 0xd2, 0x04, 0x00, 0x00,  // ACL_USER 1234
    4,    0, 4, 0, 0xff, 0xff, 0xff, 0xff,  // ACL_GROUP_OBJ
    0x10, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,  // ACL_MASK
    0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,  // ACL_OTHER
};

void require(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "probe: %s: %s\n", what, std::strerror(errno));
  _exit(70);
}

void writeFile(const char* path, std::string_view content) {
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  require(fd >= 0 && write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size()), path);
  close(fd);
}

bool holds(const char* path, std::string_view content) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  std::array<char, 256> bytes{};
  const ssize_t got = read(fd, bytes.data(), bytes.size());
  close(fd);
  return got >= 0 && std::string_view(bytes.data(), static_cast<size_t>(got)) == content;
}

bool absent(const char* path) {
  struct stat found{};
  return lstat(path, &found) != 0 && errno == ENOENT;
}

bool status(const char* path, struct stat& found) {
  return lstat(path, &found) == 0;
}

std::set<std::string> names(const char* path) {
  std::set<std::string> found;
  DIR* directory = opendir(path);
  if (directory == nullptr) return found;
  while (const dirent* entry = readdir(directory)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") found.emplace(name);
  }
  closedir(directory);
  return found;
}

void replaceDirectory() {
  for (const std::string& name : names(kReplaced)) {
    require(unlink((std::string(kReplaced) + "/" + name).c_str()) == 0, name.c_str());
  }
  require(rmdir(kReplaced) == 0 && mkdir(kReplaced, 0750) == 0, kReplaced);
  writeFile((std::string(kReplaced) + "/own").c_str(), "of the instance\n");
}

void makeSparse() {
  writeFile(kSparse, "head");
  const int fd = open(kSparse, O_WRONLY | O_CLOEXEC);
  require(fd >= 0 && pwrite(fd, "tail", 4, kSparseBytes - 4) == 4, kSparse);
  close(fd);
}

bool sparseGood() {
  struct stat found{};
  if (!status(kSparse, found) || found.st_size != kSparseBytes || found.st_blocks * 512 > 64 * 1024) return false;
  const int fd = open(kSparse, O_RDONLY | O_CLOEXEC);
  std::array<char, 4> head{};
  std::array<char, 4> tail{};
  const bool good = fd >= 0 && pread(fd, head.data(), 4, 0) == 4 && pread(fd, tail.data(), 4, kSparseBytes - 4) == 4 &&
                    std::memcmp(head.data(), "head", 4) == 0 && std::memcmp(tail.data(), "tail", 4) == 0;
  close(fd);
  return good;
}

bool xattrGood(const char* path, const char* name, const void* value, size_t size) {
  std::array<char, 4096> found{};
  return lgetxattr(path, name, found.data(), found.size()) == static_cast<ssize_t>(size) &&
         std::memcmp(found.data(), value, size) == 0;
}

}  // namespace

void makeRootChanges() {
  if (access(kDone, F_OK) == 0) return;
  require(unlink(kBaseDeleted) == 0, kBaseDeleted);
  require(unlink(kAppDeleted) == 0, kAppDeleted);
  replaceDirectory();
  writeFile(kBaseChanged, "changed\n");

  require((mkdir("/data", 0755) == 0 || errno == EEXIST) && mkdir("/data/sub", 0700) == 0, "/data");
  writeFile(kPlain, "plain\n");
  require(chown(kPlain, 1001, 1002) == 0 && chmod(kPlain, 0640) == 0, kPlain);
  const std::array<timespec, 2> times = {kTime, kTime};
  require(utimensat(AT_FDCWD, kPlain, times.data(), 0) == 0, kPlain);
  writeFile(kAcl, "acl\n");
  require(setxattr(kAcl, "system.posix_acl_access", kAclValue.data(), kAclValue.size(), 0) == 0, kAcl);
  writeFile(kXattr, "xattr\n");
  const std::string longValue(1500, 'x');
  require(setxattr(kXattr, "user.probe", longValue.data(), longValue.size(), 0) == 0, kXattr);
  writeFile(kLinkOne, "two names\n");
  require(link(kLinkOne, kLinkTwo) == 0, kLinkTwo);
  makeSparse();
  writeFile(kSuid, "suid\n");
  require(chmod(kSuid, 04711) == 0, kSuid);
  writeFile(kOddName, "odd\n");
  require(symlink("nowhere/at all", kDangling) == 0, kDangling);
  require(mkfifo(kFifo, 0620) == 0 && chmod(kFifo, 0620) == 0, kFifo);
  writeFile(kDone, "");
}

std::string verifyRootChanges() {
  struct stat one{};
  struct stat two{};
  std::string json = "{";
  const auto say = [&json](const char* name, bool good) {
    if (json.size() > 1) json += ',';
    json += std::string("\"") + name + "\":" + (good ? "true" : "false");
  };
  say("baseDeleted", absent(kBaseDeleted));
  say("baseDeletedByApp", absent(kBaseDeletedByApp));
  say("appDeleted", absent(kAppDeleted));
  say("replacedDirectory",
      names(kReplaced) == std::set<std::string>{"own"} && status(kReplaced, one) && (one.st_mode & 07777) == 0750);
  say("baseChanged", holds(kBaseChanged, "changed\n"));
  say("plain", holds(kPlain, "plain\n") && status(kPlain, one) && one.st_uid == 1001 && one.st_gid == 1002 &&
                   (one.st_mode & 07777) == 0640);
  say("mtime", status(kPlain, one) && one.st_mtim.tv_sec == kTime.tv_sec && one.st_mtim.tv_nsec == kTime.tv_nsec);
  say("acl", xattrGood(kAcl, "system.posix_acl_access", kAclValue.data(), kAclValue.size()));
  const std::string longValue(1500, 'x');
  say("xattr", xattrGood(kXattr, "user.probe", longValue.data(), longValue.size()));
  say("hardLink", status(kLinkOne, one) && status(kLinkTwo, two) && one.st_ino == two.st_ino && one.st_nlink == 2);
  say("sparse", sparseGood());
  say("suid", status(kSuid, one) && (one.st_mode & 07777) == 04711);
  say("oddName", holds(kOddName, "odd\n"));
  std::array<char, 64> target{};
  const ssize_t length = readlink(kDangling, target.data(), target.size());
  say("dangling", length > 0 && std::string_view(target.data(), static_cast<size_t>(length)) == "nowhere/at all");
  say("fifo", status(kFifo, one) && S_ISFIFO(one.st_mode) && (one.st_mode & 07777) == 0620);
  return json + "}";
}

}  // namespace probe
