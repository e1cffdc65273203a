#include "tree/partial_directory.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "base/hex.h"
#include "hash/blake3.h"
#include "tree/scan.h"

namespace deltahop {
namespace {

constexpr size_t kKeyBytes = 16;
constexpr size_t kKeyDigits = 2 * kKeyBytes;

// <32 hex digits of the path's BLAKE3>.<number>
std::string keyOf(const std::string& path) {
  const Digest digest = blake3({reinterpret_cast<const uint8_t*>(path.data()), path.size()});
  return toHex(ByteSpan(digest).first(kKeyBytes));
}

}  // namespace

Result<PartialDirectory> PartialDirectory::open(const Directory& root) {
  PartialDirectory partial;
  partial.root_ = &root;
  auto directory = root.openBeneath(kPartialDirectory);
  if (!directory.ok()) {
    if (directory.error().code == Code::kNotFound) return partial;
    // Anything else under the reserved name is not ours to trust.
    DH_CHECK(root.removeTree(kPartialDirectory));
    return partial;
  }
  partial.directory_ = std::move(directory).value();
  DH_TRY(const std::vector<std::string> names, partial.directory_.names());
  for (const std::string& name : names) {
    uint64_t number = 0;
    const char* end = name.data() + name.size();
    const bool ours = name.size() > kKeyDigits + 1 && name[kKeyDigits] == '.' &&
                      std::from_chars(name.data() + kKeyDigits + 1, end, number).ptr == end;
    if (!ours) {
      DH_CHECK(partial.directory_.removeTree(name));
      continue;
    }
    partial.known_[name.substr(0, kKeyDigits)].push_back(name);
    partial.nextNumber_ = std::max(partial.nextNumber_, number + 1);
  }
  return partial;
}

Status PartialDirectory::make() {
  if (directory_.isOpen()) return {};
  const Status made = root_->makeDirectory(kPartialDirectory, 0700);
  if (!made.ok() && made.error().sysErrno != EEXIST) return made;
  DH_TRY(directory_, root_->openBeneath(kPartialDirectory));
  return {};
}

std::vector<std::string> PartialDirectory::leftOvers(const std::string& path) {
  const std::lock_guard lock(*mutex_);
  if (known_.empty()) return {};
  const auto at = known_.find(keyOf(path));
  if (at == known_.end()) return {};
  std::vector<std::pair<int64_t, std::string>> bySize;
  for (const std::string& name : at->second) {
    const auto status = directory_.status(name);
    if (status.ok() && S_ISREG(status.value().st_mode)) bySize.emplace_back(status.value().st_size, name);
  }
  std::sort(bySize.rbegin(), bySize.rend());
  std::vector<std::string> names;
  for (const auto& [size, name] : bySize) {
    if (size > 0 && names.size() < kMaxLeftOvers) {
      names.push_back(name);
    } else {
      unlink(name);
    }
  }
  at->second = names;
  return names;
}

Result<File> PartialDirectory::create(const std::string& path, std::string& name) {
  const std::lock_guard lock(*mutex_);
  DH_CHECK(make());
  name = keyOf(path) + "." + std::to_string(nextNumber_++);
  return directory_.open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
}

Result<std::string> PartialDirectory::freeName() {
  const std::lock_guard lock(*mutex_);
  DH_CHECK(make());
  return "new." + std::to_string(nextNumber_++);
}

Result<File> PartialDirectory::read(const std::string& name) const {
  const std::lock_guard lock(*mutex_);
  return directory_.openRegular(name);
}

void PartialDirectory::remove(const std::string& name) {
  const std::lock_guard lock(*mutex_);
  unlink(name);
}

void PartialDirectory::unlink(const std::string& name) {
  // What cannot be removed now is removed with the directory, or by the next transfer.
  if (directory_.isOpen()) (void)directory_.unlink(name).ok();
}

void PartialDirectory::removeLeftOvers(const std::string& path) {
  const std::lock_guard lock(*mutex_);
  if (known_.empty()) return;
  const auto at = known_.find(keyOf(path));
  if (at == known_.end()) return;
  for (const std::string& name : at->second) unlink(name);
  known_.erase(at);
}

Status PartialDirectory::removeAll() {
  if (!directory_.isOpen()) return {};
  directory_ = Directory();
  known_.clear();
  DH_CHECK(root_->removeTree(kPartialDirectory));
  return {};
}

}  // namespace deltahop
