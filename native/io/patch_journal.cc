#include "io/patch_journal.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <optional>

#include "hash/content_digest.h"
#include "wire/reader.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr std::array<uint8_t, 4> kMagic = {'D', 'H', 'P', 'J'};
constexpr uint8_t kVersion = 1;
constexpr uint8_t kData = 1;
constexpr uint8_t kZeros = 2;
constexpr uint8_t kSeal = 3;
constexpr size_t kChecksumBytes = 16;
// kind, offset, length
constexpr size_t kRecordHeadBytes = 1 + 8 + 8;
constexpr size_t kSealBytes = 1 + 8 + kChecksumBytes;
constexpr size_t kMaxRunBytes = 64 << 10;
constexpr size_t kFlushBytes = 64 << 10;
constexpr size_t kCopyBytes = 256 << 10;
// PATH_MAX bounds no path beneath a held directory; the depth and the names of a tree do.
constexpr size_t kMaxPathBytes = 256 << 10;
constexpr size_t kMaxHeadBytes = kMaxPathBytes + 64;
constexpr size_t kMaxExtents = size_t{1} << 26;

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kTouchEvery{100};

Status readExactly(const Storage& file, uint64_t offset, std::span<uint8_t> buffer) {
  DH_TRY(const size_t got, file.readAt(offset, buffer));
  if (got < buffer.size()) return Error{Code::kTruncated, "a patch journal ends too early"};
  return {};
}

}  // namespace

Result<PatchTarget> patchTarget(const File& file, const std::string& path) {
  struct statx status{};
  if (::statx(file.fd(), "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &status) != 0) {
    return systemError(errno, "stat " + path);
  }
  const bool hasBirth = (status.stx_mask & STATX_BTIME) != 0;
  return PatchTarget{path, status.stx_ino, hasBirth ? status.stx_btime.tv_sec : 0,
                     hasBirth ? status.stx_btime.tv_nsec : 0};
}

Status PatchJournalWriter::begin(const PatchTarget& target) {
  journal_.target_ = target;
  Bytes head;
  Writer writer(head);
  writer.raw(kMagic);
  writer.u8(kVersion);
  writer.u64(target.inode);
  writer.u64(static_cast<uint64_t>(target.birthSeconds));
  writer.u32(target.birthNanoseconds);
  writer.bytes({reinterpret_cast<const uint8_t*>(target.path.data()), target.path.size()});
  return append(head);
}

Status PatchJournalWriter::write(uint64_t offset, ByteSpan data) {
  if (data.empty()) return {};
  if (!run_.empty() && offset != runOffset_ + run_.size()) DH_CHECK(endRun());
  while (!data.empty()) {
    if (run_.empty()) runOffset_ = offset;
    const size_t taken = std::min(data.size(), kMaxRunBytes - run_.size());
    run_.insert(run_.end(), data.begin(), data.begin() + static_cast<ptrdiff_t>(taken));
    offset += taken;
    data = data.subspan(taken);
    if (run_.size() == kMaxRunBytes) DH_CHECK(endRun());
  }
  return {};
}

Status PatchJournalWriter::zeros(uint64_t offset, uint64_t length) {
  if (length == 0) return {};
  DH_CHECK(endRun());
  Bytes record;
  Writer writer(record);
  writer.u8(kZeros);
  writer.u64(offset);
  writer.u64(length);
  journal_.extents_.push_back({offset, length, 0});
  return append(record);
}

Status PatchJournalWriter::endRun() {
  if (run_.empty()) return {};
  if (journal_.extents_.size() >= kMaxExtents) return Error{Code::kLimit, "a patch in too many pieces"};
  Bytes head;
  Writer writer(head);
  writer.u8(kData);
  writer.u64(runOffset_);
  writer.u64(run_.size());
  DH_CHECK(append(head));
  journal_.extents_.push_back({runOffset_, run_.size(), appended_});
  DH_CHECK(append(run_));
  run_.clear();
  return {};
}

Status PatchJournalWriter::append(ByteSpan bytes) {
  checksum_.update(bytes);
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  appended_ += bytes.size();
  if (buffer_.size() < kFlushBytes) return {};
  DH_CHECK(file_.writeAt(appended_ - buffer_.size(), buffer_));
  buffer_.clear();
  return {};
}

Status PatchJournalWriter::flush() {
  DH_CHECK(endRun());
  if (buffer_.empty()) return {};
  DH_CHECK(file_.writeAt(appended_ - buffer_.size(), buffer_));
  buffer_.clear();
  return {};
}

Status PatchJournalWriter::seal(uint64_t patchedBytes, bool durable) {
  DH_CHECK(endRun());
  Bytes record;
  Writer writer(record);
  writer.u8(kSeal);
  writer.u64(patchedBytes);
  DH_CHECK(append(record));
  const Digest digest = checksum_.finish();
  DH_CHECK(append(ByteSpan(digest).first(kChecksumBytes)));
  DH_CHECK(flush());
  // One sync for content and seal: the checksum tells a seal that reached the disk before what it stands for.
  if (durable) DH_CHECK(file_.sync());
  journal_.sealed_ = true;
  journal_.patchedBytes_ = patchedBytes;
  return {};
}

Result<PatchJournal> PatchJournal::read(const Storage& file) {
  DH_TRY(const uint64_t fileBytes, file.size());
  Bytes head(std::min<uint64_t>(fileBytes, kMaxHeadBytes));
  DH_CHECK(readExactly(file, 0, head));
  Reader reader(head);
  PatchJournal journal;
  const auto readHead = [&]() -> Status {
    DH_TRY(const ByteSpan magic, reader.take(kMagic.size()));
    if (!std::equal(magic.begin(), magic.end(), kMagic.begin())) return Error{Code::kCorrupt, "not a patch journal"};
    DH_TRY(const uint8_t version, reader.u8());
    if (version != kVersion) return Error{Code::kUnsupported, "a patch journal of another version"};
    DH_TRY(journal.target_.inode, reader.u64());
    DH_TRY(const uint64_t birth, reader.u64());
    journal.target_.birthSeconds = static_cast<int64_t>(birth);
    DH_TRY(journal.target_.birthNanoseconds, reader.u32());
    DH_TRY(const ByteSpan path, reader.bytes(kMaxPathBytes));
    journal.target_.path.assign(path.begin(), path.end());
    return {};
  };
  Status headRead = readHead();
  if (!headRead.ok()) return Error{Code::kCorrupt, "patch journal: " + headRead.error().context};
  uint64_t at = reader.position();
  uint64_t end = 0;
  // Whatever does not fit from here on is where it was cut.
  static_assert(kSealBytes >= kRecordHeadBytes);
  while (fileBytes - at >= kRecordHeadBytes) {
    std::array<uint8_t, kSealBytes> bytes{};
    DH_CHECK(readExactly(file, at, std::span(bytes).first(kRecordHeadBytes)));
    Reader record(bytes);
    DH_TRY(const uint8_t kind, record.u8());
    DH_TRY(const uint64_t offset, record.u64());
    DH_TRY(const uint64_t length, record.u64());
    if (kind == kSeal) {
      if (fileBytes - at != kSealBytes) break;
      DH_CHECK(readExactly(file, at, bytes));
      Reader seal(ByteSpan(bytes).subspan(1));
      DH_TRY(const uint64_t patchedBytes, seal.u64());
      if (patchedBytes > kMaxFileBytes || end > patchedBytes) break;
      Blake3 checksum;
      const uint64_t checkedBytes = fileBytes - kChecksumBytes;
      Bytes buffer;
      for (uint64_t done = 0; done < checkedBytes; done += buffer.size()) {
        buffer.resize(std::min<uint64_t>(checkedBytes - done, kCopyBytes));
        DH_CHECK(readExactly(file, done, buffer));
        checksum.update(buffer);
      }
      const Digest digest = checksum.finish();
      if (!std::equal(digest.begin(), digest.begin() + kChecksumBytes, bytes.end() - kChecksumBytes)) break;
      journal.patchedBytes_ = patchedBytes;
      journal.sealed_ = true;
      break;
    }
    if (kind != kData && kind != kZeros) break;
    if (length == 0 || offset < end || offset > kMaxFileBytes || length > kMaxFileBytes - offset) break;
    at += kRecordHeadBytes;
    if (kind == kData && length > fileBytes - at) break;
    if (journal.extents_.size() >= kMaxExtents) return Error{Code::kLimit, "a patch journal of too many pieces"};
    journal.extents_.push_back({offset, length, kind == kData ? at : 0});
    if (kind == kData) at += length;
    end = offset + length;
  }
  return journal;
}

Status applyPatch(Storage& journalFile, const PatchJournal& journal, Storage& target, bool durable) {
  if (!journal.isSealed()) return Error{Code::kInvalidArgument, "a patch journal that is not sealed"};
  DH_TRY(const uint64_t before, target.size());
  std::optional<Clock::time_point> touched;
  Bytes buffer;
  const auto touch = [&]() -> Status {
    const auto now = Clock::now();
    if (touched.has_value() && now - *touched < kTouchEvery) return {};
    touched = now;
    return journalFile.touch();
  };
  for (const PatchExtent& extent : journal.extents()) {
    if (extent.isZeros()) {
      DH_CHECK(touch());
      DH_CHECK(makeZeros(target, extent.offset, extent.length));
      continue;
    }
    for (uint64_t done = 0; done < extent.length; done += buffer.size()) {
      buffer.resize(std::min<uint64_t>(extent.length - done, kCopyBytes));
      DH_CHECK(readExactly(journalFile, extent.journalOffset + done, buffer));
      DH_CHECK(touch());
      DH_CHECK(target.writeAt(extent.offset + done, buffer));
    }
  }
  if (before != journal.patchedBytes()) {
    DH_CHECK(touch());
    DH_CHECK(target.truncate(journal.patchedBytes()));
  }
  return durable ? target.sync() : Status();
}

}  // namespace deltahop
