#include "tree/partial_directory.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <utility>

#include "base/hex.h"
#include "hash/blake3.h"
#include "tree/scan.h"

namespace deltahop {
namespace {

constexpr size_t kKeyBytes = 16;
constexpr size_t kKeyDigits = 2 * kKeyBytes;
constexpr std::string_view kJournalSuffix = ".journal";

std::string keyOf(const std::string& path) {
  const Digest digest = blake3({reinterpret_cast<const uint8_t*>(path.data()), path.size()});
  return toHex(ByteSpan(digest).first(kKeyBytes));
}

// <32 hex digits of the path's BLAKE3>.<number>, with .journal behind it for a journal.
std::optional<uint64_t> numberOf(std::string_view name) {
  if (PartialDirectory::isJournalName(name)) name.remove_suffix(kJournalSuffix.size());
  uint64_t number = 0;
  const char* end = name.data() + name.size();
  const bool ours = name.size() > kKeyDigits + 1 && name[kKeyDigits] == '.' &&
                    std::from_chars(name.data() + kKeyDigits + 1, end, number).ptr == end;
  return ours ? std::optional(number) : std::nullopt;
}

}  // namespace

bool PartialDirectory::isJournalName(std::string_view name) {
  return name.ends_with(kJournalSuffix);
}

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
    const auto number = numberOf(name);
    if (!number.has_value()) {
      DH_CHECK(partial.directory_.removeTree(name));
      continue;
    }
    const std::string key = name.substr(0, kKeyDigits);
    partial.nextNumber_ = std::max(partial.nextNumber_, *number + 1);
    if (!isJournalName(name)) {
      partial.known_[key].push_back(name);
      continue;
    }
    std::string& journal = partial.journals_[key];
    if (journal.empty()) {
      journal = name;
      continue;
    }
    // Two of them: the second was cut as well, and may not have come as far as the first.
    DH_TRY(const struct stat first, partial.directory_.status(journal));
    DH_TRY(const struct stat second, partial.directory_.status(name));
    partial.remove(second.st_size > first.st_size ? std::exchange(journal, name) : name);
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

std::string PartialDirectory::leftJournal(const std::string& path) const {
  const std::lock_guard lock(*mutex_);
  if (journals_.empty()) return {};
  const auto at = journals_.find(keyOf(path));
  return at == journals_.end() ? std::string() : at->second;
}

Result<File> PartialDirectory::createJournal(const std::string& path, std::string& name) {
  const std::lock_guard lock(*mutex_);
  DH_CHECK(make());
  name = keyOf(path) + "." + std::to_string(nextNumber_++);
  name += kJournalSuffix;
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
  if (known_.empty() && journals_.empty()) return;
  const std::string key = keyOf(path);
  if (const auto at = known_.find(key); at != known_.end()) {
    for (const std::string& name : at->second) unlink(name);
    known_.erase(at);
  }
  if (const auto at = journals_.find(key); at != journals_.end()) {
    unlink(at->second);
    journals_.erase(at);
  }
}

Status PartialDirectory::removeAll() {
  if (!directory_.isOpen()) return {};
  directory_ = Directory();
  known_.clear();
  journals_.clear();
  DH_CHECK(root_->removeTree(kPartialDirectory));
  return {};
}

}  // namespace deltahop
