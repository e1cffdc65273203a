// What the tests of trees share: a tree as a map that is made without the code under test, and random trees.
#pragma once

#include <dirent.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/hex.h"
#include "base/test_support.h"
#include "hash/blake3.h"

namespace deltahop {

inline bool isRoot() {
  return ::geteuid() == 0;
}

/// Everything about a tree that a transfer must carry, by path ("." is the root).
using TreeModel = std::map<std::string, std::string>;

inline void modelEntry(TreeModel& model, std::map<std::pair<dev_t, ino_t>, std::string>& inodes,
                       const std::string& full, const std::string& path, TreeModel* leaders) {
  struct stat status{};
  REQUIRE(::lstat(full.c_str(), &status) == 0);
  std::string text = "mode " + std::to_string(status.st_mode) + " owner " + std::to_string(status.st_uid) + ":" +
                     std::to_string(status.st_gid) + " mtime " + std::to_string(status.st_mtim.tv_sec) + "." +
                     std::to_string(status.st_mtim.tv_nsec);
  char names[65536];
  const ssize_t length = ::llistxattr(full.c_str(), names, sizeof names);
  std::set<std::string> sorted;
  for (ssize_t at = 0; at < length; at += static_cast<ssize_t>(std::strlen(names + at)) + 1) sorted.insert(names + at);
  for (const std::string& name : sorted) {
    char value[65536];
    const ssize_t bytes = ::lgetxattr(full.c_str(), name.c_str(), value, sizeof value);
    REQUIRE(bytes >= 0);
    text += " xattr " + name + "=" + toHex({reinterpret_cast<const uint8_t*>(value), static_cast<size_t>(bytes)});
  }
  if (!S_ISDIR(status.st_mode)) {
    const auto [at, isNew] = inodes.try_emplace({status.st_dev, status.st_ino}, path);
    if (!isNew) text += " link " + at->second;
    if (leaders != nullptr) (*leaders)[path] = at->second;
  }
  if (S_ISREG(status.st_mode)) {
    text += " size " + std::to_string(status.st_size);
    std::ifstream file(full, std::ios::binary);
    const std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    text += " content " + toHex(blake3({reinterpret_cast<const uint8_t*>(content.data()), content.size()}));
  } else if (S_ISLNK(status.st_mode)) {
    char target[4096];
    const ssize_t bytes = ::readlink(full.c_str(), target, sizeof target);
    REQUIRE(bytes >= 0);
    text += " target " + std::string(target, static_cast<size_t>(bytes));
  } else if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)) {
    text += " device " + std::to_string(major(status.st_rdev)) + ":" + std::to_string(minor(status.st_rdev));
  }
  model[path] = text;
  if (!S_ISDIR(status.st_mode)) return;
  std::vector<std::string> children;
  DIR* directory = ::opendir(full.c_str());
  REQUIRE(directory != nullptr);
  while (const struct dirent* entry = ::readdir(directory)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") children.push_back(name);
  }
  ::closedir(directory);
  std::sort(children.begin(), children.end());
  for (const std::string& name : children) modelEntry(model, inodes, full + "/" + name, path + "/" + name, leaders);
}

/// `leaders`, if given, gets the first path of its inode for every path that is no directory.
inline TreeModel modelOf(const std::string& root, TreeModel* leaders = nullptr) {
  TreeModel model;
  std::map<std::pair<dev_t, ino_t>, std::string> inodes;
  modelEntry(model, inodes, root, ".", leaders);
  return model;
}

/// Compares path by path, so that a failure names what differs.
inline void requireSameTree(const std::string& left, const std::string& right) {
  const TreeModel a = modelOf(left);
  const TreeModel b = modelOf(right);
  for (const auto& [path, text] : a) {
    const auto at = b.find(path);
    if (at == b.end()) FAIL("missing: ", path);
    if (at->second != text) FAIL(path, "\n  ", text, "\n  ", at->second);
  }
  for (const auto& [path, text] : b) {
    if (!a.contains(path)) FAIL("too many: ", path);
  }
}

inline void setMtime(const std::string& path, int64_t seconds, long nanoseconds) {
  const struct timespec times[2] = {{0, UTIME_OMIT}, {seconds, nanoseconds}};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) == 0);
}

/// A random tree that is changed at random, with every kind of entry that this user may make.
class RandomTree {
 public:
  RandomTree(std::string root, uint64_t seed) : root_(std::move(root)), random_(seed) { ::mkdir(root_.c_str(), 0755); }

  /// Some random steps: new entries, changes of content, metadata and kind, renames, deletions.
  void mutate(size_t steps) {
    for (size_t i = 0; i < steps; ++i) step();
  }

  TestRandom& random() { return random_; }

 private:
  std::string pick(bool directory) {
    std::vector<std::string> found;
    collect(root_, found, directory);
    if (found.empty()) return root_;
    return found[random_.below(found.size())];
  }

  void collect(const std::string& at, std::vector<std::string>& found, bool directory) {
    if (directory) found.push_back(at);
    for (const auto& entry : std::filesystem::directory_iterator(at)) {
      const bool isDirectory = entry.is_directory() && !entry.is_symlink();
      if (isDirectory) collect(entry.path().string(), found, directory);
      if (!isDirectory && !directory) found.push_back(entry.path().string());
    }
  }

  std::string freshName() {
    static const char* const kNames[] = {"a", "b", "a.b", "-n", " ", "\n", "\xff\xfe", "lib", "\xc3\xa4", "x*"};
    return pick(true) + "/" + kNames[random_.below(10)] + std::to_string(random_.below(40));
  }

  Bytes content() {
    switch (random_.below(7)) {
      case 0:
        return {};
      case 1:
        return random_.bytes(1);
      case 2:
        return random_.bytes(512 + random_.below(3) - 1);
      case 3:
        return random_.bytes(random_.below(200'000));
      case 4:
        return Bytes(random_.below(100'000), 0);
      default:
        return random_.bytes(random_.below(3000));
    }
  }

  void step() {
    const std::string fresh = freshName();
    std::error_code error;
    switch (random_.below(16)) {
      case 0:
      case 1:
      case 2:
        if (!std::filesystem::is_directory(std::filesystem::symlink_status(fresh))) {
          ::unlink(fresh.c_str());
          writeTestFile(fresh, content());
        }
        break;
      case 3:
      case 4:
        ::mkdir(fresh.c_str(), 0755);
        break;
      case 5:
        (void)!::symlink(random_.below(2) ? "../nowhere/\xff x" : "/etc/passwd", fresh.c_str());
        break;
      case 6:
        (void)!::link(pick(false).c_str(), fresh.c_str());
        break;
      case 7:
        if (isRoot()) {
          static const mode_t kTypes[] = {S_IFCHR, S_IFBLK, S_IFIFO};
          (void)!::mknod(
              fresh.c_str(), kTypes[random_.below(3)] | 0640,
              makedev(static_cast<unsigned>(random_.below(300)), static_cast<unsigned>(random_.below(70000))));
        } else {
          (void)!::mkfifo(fresh.c_str(), 0600);
        }
        break;
      case 8: {
        const std::string victim = pick(random_.below(4) == 0);
        if (victim != root_) std::filesystem::remove_all(victim, error);
        break;
      }
      case 9: {
        const std::string from = pick(random_.below(3) == 0);
        if (from != root_) (void)!::rename(from.c_str(), fresh.c_str());
        break;
      }
      case 10: {
        const std::string at = pick(random_.below(3) == 0);
        if (!std::filesystem::is_symlink(at)) ::chmod(at.c_str(), static_cast<mode_t>(0700 | random_.below(07777)));
        break;
      }
      case 11: {
        const std::string at = pick(random_.below(3) == 0);
        setMtime(at, static_cast<int64_t>(random_.below(4'000'000'000)) - 1'000'000,
                 static_cast<long>(random_.below(1'000'000'000)));
        break;
      }
      case 12: {
        const std::string at = pick(random_.below(3) == 0);
        const Bytes value = random_.bytes(random_.below(100));
        static const char* const kUser[] = {"user.a", "user.b", "trusted.c", "security.d"};
        (void)!::lsetxattr(at.c_str(), kUser[random_.below(isRoot() ? 4 : 2)], value.data(), value.size(), 0);
        if (random_.below(3) == 0) ::lremovexattr(at.c_str(), "user.a");
        break;
      }
      case 13:
        if (isRoot()) {
          (void)!::lchown(pick(random_.below(3) == 0).c_str(), static_cast<uid_t>(random_.below(100000)),
                          static_cast<gid_t>(random_.below(100000)));
        }
        break;
      default: {
        // A change inside a file: some bytes inserted, overwritten or cut off.
        const std::string at = pick(false);
        struct stat status{};
        if (at == root_ || ::lstat(at.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) break;
        Bytes bytes = readTestFile(at);
        const size_t where = random_.below(bytes.size() + 1);
        const Bytes piece = random_.bytes(random_.below(300));
        if (random_.below(2)) {
          bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(where), piece.begin(), piece.end());
        } else {
          bytes.resize(where);
        }
        ::chmod(at.c_str(), status.st_mode | 0600);
        writeTestFile(at, bytes);
        break;
      }
    }
  }

  std::string root_;
  TestRandom random_;
};

}  // namespace deltahop
