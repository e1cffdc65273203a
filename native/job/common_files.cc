#include "job/common_files.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "hash/content_digest.h"
#include "io/page_file.h"
#include "signature/page_sums.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

// A disk of 200 MB/s reads so much of a file for its digest before the peer takes the transfer for dead, and so much
// for sums, three times and in pieces, while a slow link would carry some hundred MB.
constexpr uint64_t kMaxBytesForName = uint64_t{4} << 30;
constexpr uint64_t kMaxBytesForSums = uint64_t{16} << 30;

// Some of these files were sent by a peer, and a link would have any file of this node looked at.
Result<File> openOwn(const std::string& path) {
  DH_TRY(File file, File::open(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  DH_TRY(const struct stat status, file.stat());
  if (!S_ISREG(status.st_mode)) return Error{Code::kUnsupported, "no regular file", 0};
  return file;
}

// Nothing if it cannot be read.
Result<std::optional<CommonFileName>> nameOf(const CommonFile& common, const CancelCheck& cancelled) {
  std::optional<CommonFileName> nothing;
  const auto file = openOwn(common.path);
  if (!file.ok()) return nothing;
  const auto bytes = file.value().size();
  if (!bytes.ok()) return nothing;
  if (common.id.has_value()) return std::optional(CommonFileName{*common.id, bytes.value()});
  if (bytes.value() > kMaxBytesForName) return nothing;
  const auto digest = contentDigest(file.value(), [&](uint64_t) { return !cancelled(); });
  if (cancelled()) return Error{Code::kCancelled, "look at common files", 0};
  if (!digest.ok()) return nothing;
  return std::optional(CommonFileName{digest.value(), bytes.value()});
}

// Without holes, which cost nothing.
uint64_t dataBytes(const std::string& path) {
  const auto file = openOwn(path);
  if (!file.ok()) return 0;
  const auto status = file.value().stat();
  return status.ok() ? static_cast<uint64_t>(status.value().st_blocks) * 512 : 0;
}

uint64_t bytesOf(std::span<const CommonFileName> names) {
  std::vector<uint64_t> sizes;
  for (const CommonFileName& name : names) sizes.push_back(name.bytes);
  return sizes.empty() ? 0 : basisLayout(sizes, kPageBytes).back().end();
}

}  // namespace

Result<CommonBasis> CommonBasis::offered(std::span<const CommonFile> files, const CancelCheck& cancelled) {
  CommonBasis basis;
  uint64_t toBeRead = 0;
  for (const CommonFile& file : files) {
    if (basis.names_.size() == kMaxBasisFiles) break;
    const uint64_t data = dataBytes(file.path);
    if (data > kMaxBytesForSums - toBeRead) continue;
    DH_TRY(const auto name, nameOf(file, cancelled));
    if (!name.has_value() || name->bytes == 0 || name->bytes > kMaxSummedBytes - basis.bytes()) continue;
    basis.names_.push_back(*name);
    if (basis.bytes() > kMaxSummedBytes) {
      basis.names_.pop_back();
      continue;
    }
    basis.which_ = static_cast<uint8_t>(basis.which_ | 1u << basis.paths_.size());
    basis.paths_.push_back(file.path);
    toBeRead += data;
  }
  return basis;
}

Result<CommonBasis> CommonBasis::held(std::span<const CommonFile> files, std::span<const CommonFileName> announced,
                                      const CancelCheck& cancelled) {
  std::vector<std::pair<std::string, CommonFileName>> own;
  for (const CommonFile& file : files) {
    DH_TRY(const auto name, nameOf(file, cancelled));
    if (name.has_value()) own.emplace_back(file.path, *name);
  }
  CommonBasis basis;
  for (size_t i = 0; i < announced.size(); ++i) {
    const auto same = std::find_if(own.begin(), own.end(), [&](const auto& one) { return one.second == announced[i]; });
    if (same == own.end()) continue;
    basis.which_ = static_cast<uint8_t>(basis.which_ | 1u << i);
    basis.names_.push_back(announced[i]);
    basis.paths_.push_back(same->first);
  }
  return basis;
}

Result<CommonBasis> CommonBasis::chosen(uint8_t which) const {
  CommonBasis basis;
  if (which == 0 || (which & ~which_) != 0) return Error{Code::kProtocol, "pages of files that were not announced", 0};
  for (size_t i = 0; i < names_.size(); ++i) {
    if ((which >> i & 1) == 0) continue;
    basis.names_.push_back(names_[i]);
    basis.paths_.push_back(paths_[i]);
  }
  basis.which_ = which;
  return basis;
}

uint64_t CommonBasis::bytes() const {
  return bytesOf(names_);
}

Result<Basis> CommonBasis::open() const {
  std::vector<File> files;
  for (const std::string& path : paths_) {
    auto file = openOwn(path);
    if (file.ok()) files.push_back(std::move(file).value());
  }
  return Basis::make(std::move(files), kPageBytes);
}

void writeCommonFiles(Bytes& output, std::span<const CommonFileName> names) {
  Writer writer(output);
  writer.u8(static_cast<uint8_t>(names.size()));
  for (const CommonFileName& name : names) {
    writer.raw(name.id);
    writer.varint(name.bytes);
  }
}

Result<std::vector<CommonFileName>> readCommonFiles(Reader& reader) {
  DH_TRY(const uint8_t count, reader.u8());
  if (count == 0 || count > kMaxBasisFiles) return Error{Code::kProtocol, "a number of common files", 0};
  std::vector<CommonFileName> names(count);
  for (CommonFileName& name : names) {
    DH_TRY(const ByteSpan id, reader.take(sizeof(Digest)));
    std::copy(id.begin(), id.end(), name.id.begin());
    DH_TRY(name.bytes, reader.varint(kMaxSummedBytes));
  }
  if (bytesOf(names) > kMaxSummedBytes) return Error{Code::kProtocol, "common files of too many bytes", 0};
  return names;
}

}  // namespace deltahop
