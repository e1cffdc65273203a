#include "tree/scan.h"

#include <linux/magic.h>
#include <sys/utsname.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <thread>
#include <unordered_map>

namespace deltahop {
namespace {

struct InodeKey {
  dev_t device;
  ino_t inode;
  bool operator==(const InodeKey&) const = default;
};

struct InodeHash {
  size_t operator()(const InodeKey& key) const {
    return std::hash<uint64_t>()(static_cast<uint64_t>(key.inode) * 0x9E3779B97F4A7C15ull ^ key.device);
  }
};

constexpr int64_t kSecondNs = 1'000'000'000;

int64_t nanoseconds(const struct timespec& time) {
  return time.tv_sec * kSecondNs + time.tv_nsec;
}

// How long after a change a further one may leave the times of a file as they are. These file systems take their times
// from the kernel's coarse clock; since Linux 6.13 a file whose times were looked at gets a new one at its next change,
// however soon. Others may count in seconds.
int64_t hidingNs(const Directory& root) {
  struct statfs fileSystem{};
  struct utsname system{};
  struct timespec resolution{};
  if (::fstatfs(root.fd(), &fileSystem) != 0 || ::uname(&system) != 0 ||
      ::clock_getres(CLOCK_REALTIME_COARSE, &resolution) != 0) {
    return 2 * kSecondNs;
  }
  const auto type = static_cast<unsigned long>(fileSystem.f_type);
  if (type != EXT4_SUPER_MAGIC && type != XFS_SUPER_MAGIC && type != BTRFS_SUPER_MAGIC && type != TMPFS_MAGIC) {
    return 2 * kSecondNs;
  }
  unsigned major = 0;
  unsigned minor = 0;
  const bool known = std::sscanf(system.release, "%u.%u", &major, &minor) == 2;
  return known && (major > 6 || (major == 6 && minor >= 13)) ? 0 : 2 * nanoseconds(resolution);
}

class Scanner {
 public:
  Scanner(const ScanOptions& options, Notes& notes, const CancelCheck& cancelled)
      : options_(options), notes_(notes), cancelled_(cancelled) {}

  Result<ScanResult> scan(const Directory& root) {
    std::vector<Level> levels;
    if (options_.stamps) waitForClock(root);
    if (options_.onlyEntry.has_value()) {
      struct stat status{};
      status.st_mode = S_IFDIR;
      DH_TRY(const uint32_t index, add(kNoEntry, 0, {}, status, {}, 0));
      DH_TRY(Directory top, root.openBeneath({}));
      levels.push_back(Level{std::move(top), index, {*options_.onlyEntry}, 0});
    } else {
      DH_TRY(const struct stat status, root.ownStatus());
      DH_TRY(const XattrList xattrs, readOwnXattrs(root, options_.excludeXattrs));
      DH_TRY(const uint32_t index, add(kNoEntry, 0, {}, status, xattrs, 0));
      DH_TRY(Directory top, root.openBeneath({}));
      DH_CHECK(enter(levels, std::move(top), index));
    }
    while (!levels.empty()) {
      if (levels.back().next == levels.back().names.size()) {
        levels.pop_back();
        continue;
      }
      if (cancelled_ && cancelled_()) return Error{Code::kCancelled, "scan", 0};
      DH_CHECK(visit(levels));
    }
    return std::move(result_);
  }

 private:
  // So that a tree that was just written is known again: the wait is some ticks of the clock at the most.
  void waitForClock(const Directory& root) {
    const int64_t hiding = hidingNs(root);
    if (hiding == 0) return;
    if (hiding < kSecondNs / 10) std::this_thread::sleep_for(std::chrono::nanoseconds(2 * hiding));
    struct timespec now{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
    hiddenSinceNs_ = nanoseconds(now) - hiding;
  }

  struct Level {
    Directory directory;
    uint32_t index = 0;
    std::vector<std::string> names;
    size_t next = 0;
  };

  Status enter(std::vector<Level>& levels, Directory directory, uint32_t index) {
    auto names = directory.names();
    if (!names.ok()) {
      if (levels.empty()) return names.error();
      missed(index, names.error());
      return {};
    }
    if (levels.size() >= kMaxTreeDepth) return Error{Code::kLimit, "depth of a tree", 0};
    levels.push_back(Level{std::move(directory), index, std::move(names).value(), 0});
    return {};
  }

  Status visit(std::vector<Level>& levels) {
    Level& level = levels.back();
    const std::string name = std::move(level.names[level.next++]);
    if (levels.size() == 1 && name == kPartialDirectory) return {};
    const auto where = [&] {
      const std::string parent = result_.tree.path(level.index);
      return parent.empty() ? name : parent + "/" + name;
    };
    auto status = level.directory.status(name);
    if (!status.ok()) {
      if (status.error().code == Code::kNotFound) return {};  // deleted since it was listed
      missed(where(), status.error());
      return {};
    }
    const struct stat& found = status.value();
    if (S_ISSOCK(found.st_mode)) {
      notes_.add(where() + ": socket left out");
      return {};
    }
    std::string target;
    if (S_ISLNK(found.st_mode)) {
      auto link = level.directory.readLink(name);
      if (!link.ok()) {
        if (link.error().code != Code::kNotFound) missed(where(), link.error());
        return {};
      }
      target = std::move(link).value();
    }
    auto xattrs = readXattrs(level.directory, name, options_.excludeXattrs);
    if (!xattrs.ok()) {
      if (xattrs.error().code != Code::kNotFound) missed(where(), xattrs.error());
      return {};
    }
    uint64_t value = 0;
    if (S_ISREG(found.st_mode)) value = static_cast<uint64_t>(found.st_size);
    if (S_ISCHR(found.st_mode) || S_ISBLK(found.st_mode)) value = found.st_rdev;
    if (S_ISLNK(found.st_mode)) {
      DH_TRY(value, result_.tree.addTarget(std::move(target)));
    }
    const auto depth = static_cast<uint16_t>(levels.size());
    DH_TRY(const uint32_t index, add(level.index, depth, name, found, xattrs.value(), value));
    if (!S_ISDIR(found.st_mode)) return {};
    auto directory = level.directory.openBeneath(name);
    if (!directory.ok()) {
      // Gone or replaced by now: the entry stays, empty, and the next look at it will tell.
      missed(index, directory.error());
      return {};
    }
    return enter(levels, std::move(directory).value(), index);
  }

  Result<uint32_t> add(uint32_t parent, uint16_t depth, std::string_view name, const struct stat& status,
                       const XattrList& xattrs, uint64_t value) {
    Tree& tree = result_.tree;
    DH_TRY(const uint32_t list, tree.internXattrs(xattrs));
    Entry entry;
    entry.mtimeSeconds = status.st_mtim.tv_sec;
    entry.mtimeNanoseconds = static_cast<uint32_t>(status.st_mtim.tv_nsec);
    entry.value = value;
    entry.parent = parent;
    entry.depth = depth;
    DH_TRY(entry.attributes, tree.internAttributes(Attributes{status.st_mode, status.st_uid, status.st_gid, list}));
    const bool linked = !S_ISDIR(status.st_mode) && status.st_nlink > 1;
    if (linked) {
      const auto [at, added] = leaders_.try_emplace(InodeKey{status.st_dev, status.st_ino}, tree.size());
      // A link whose inode was changed between the two looks at it stays a link; what it says is the leader's.
      if (!added && (tree.mode(at->second) & S_IFMT) == (status.st_mode & S_IFMT)) {
        const Entry leader = tree.entry(at->second);
        entry.leader = at->second;
        entry.attributes = leader.attributes;
        entry.mtimeSeconds = leader.mtimeSeconds;
        entry.mtimeNanoseconds = leader.mtimeNanoseconds;
        entry.value = leader.value;
      }
    }
    if (options_.stamps) {
      FileStamp stamp;
      if (S_ISREG(status.st_mode) && nanoseconds(status.st_ctim) < hiddenSinceNs_) {
        stamp = {status.st_ino, status.st_ctim.tv_sec, static_cast<uint32_t>(status.st_ctim.tv_nsec)};
      }
      result_.stamps.push_back(stamp);
    }
    return tree.append(name, entry);
  }

  void missed(uint32_t index, const Error& error) { missed(result_.tree.path(index), error); }

  void missed(const std::string& path, const Error& error) {
    result_.complete = false;
    notes_.add(path + ": not read (" + error.context + ")");
  }

  const ScanOptions& options_;
  Notes& notes_;
  const CancelCheck& cancelled_;
  ScanResult result_;
  int64_t hiddenSinceNs_ = INT64_MAX;  // ctimes from here on may hide a later change
  std::unordered_map<InodeKey, uint32_t, InodeHash> leaders_;
};

}  // namespace

Result<ScanResult> scanTree(const Directory& root, const ScanOptions& options, Notes& notes,
                            const CancelCheck& cancelled) {
  return Scanner(options, notes, cancelled).scan(root);
}

Result<const Directory*> ParentCache::parentOf(uint32_t index) {
  const uint32_t parent = tree_.parent(index);
  if (parent == kNoEntry) return Error{Code::kInvalidArgument, "the root has no parent in its tree", 0};
  if (parent != last_) {
    last_ = kNoEntry;
    DH_TRY(directory_, root_.openBeneath(tree_.path(parent)));
    last_ = parent;
  }
  return &directory_;
}

bool hasAllDigests(const Tree& tree) {
  for (uint32_t index = 0; index < tree.size(); ++index) {
    if (tree.isRegular(index) && !tree.isFollower(index) && tree.digest(index) == nullptr) return false;
  }
  return true;
}

}  // namespace deltahop
