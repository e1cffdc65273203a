#include "tree/record.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "hash/blake3.h"
#include "tree/manifest.h"
#include "wire/reader.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr uint8_t kMagic[4] = {'D', 'H', 'R', 'C'};
constexpr uint8_t kVersion = 1;
constexpr size_t kPieceBytes = 256 << 10;
// A piece ends with the entry that fills it.
constexpr size_t kMaxPieceBytes = 2 << 20;
constexpr size_t kChecksumBytes = 16;
constexpr uint64_t kMaxRecordBytes = uint64_t{1} << 30;

uint64_t zigzag(int64_t value) {
  return (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
}

int64_t unzigzag(uint64_t value) {
  return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
}

bool hasStamp(const Tree& tree, uint32_t index) {
  return tree.isRegular(index) && !tree.isFollower(index);
}

}  // namespace

Bytes encodeRecord(const Tree& tree, const std::vector<FileStamp>& stamps) {
  Bytes output;
  Writer writer(output);
  writer.raw(kMagic);
  writer.u8(kVersion);
  writer.varint(tree.size());
  ManifestEncoder encoder(tree);
  Bytes piece;
  for (bool more = true; more;) {
    piece.clear();
    more = encoder.next(piece, kPieceBytes);
    writer.bytes(piece);
  }
  writer.varint(0);
  for (uint32_t index = 0; index < tree.size(); ++index) {
    if (!hasStamp(tree, index)) continue;
    const FileStamp& stamp = stamps[index];
    writer.varint(stamp.inode);
    if (stamp.inode == 0) continue;
    writer.varint(zigzag(stamp.ctimeSeconds));
    writer.varint(stamp.ctimeNanoseconds);
  }
  const Digest checksum = blake3(output);
  writer.raw(ByteSpan(checksum).first(kChecksumBytes));
  return output;
}

Result<TreeRecord> decodeRecord(ByteSpan bytes) {
  if (bytes.size() < kChecksumBytes) return Error{Code::kTruncated, "record", 0};
  const ByteSpan body = bytes.first(bytes.size() - kChecksumBytes);
  const Digest checksum = blake3(body);
  if (!std::equal(bytes.end() - kChecksumBytes, bytes.end(), checksum.begin())) {
    return Error{Code::kCorrupt, "record: checksum", 0};
  }
  Reader reader(body);
  DH_TRY(const ByteSpan magic, reader.take(sizeof kMagic));
  if (!std::equal(magic.begin(), magic.end(), kMagic)) return Error{Code::kCorrupt, "not a record", 0};
  DH_TRY(const uint8_t version, reader.u8());
  if (version != kVersion) return Error{Code::kUnsupported, "record of an unknown version", 0};
  DH_TRY(const uint64_t entries, reader.varint(kMaxTreeEntries));
  ManifestDecoder decoder;
  for (;;) {
    DH_TRY(const ByteSpan piece, reader.bytes(kMaxPieceBytes));
    if (piece.empty()) break;
    DH_CHECK(decoder.feed(piece));
  }
  TreeRecord record;
  DH_TRY(record.tree, decoder.finish(entries));
  record.stamps.resize(record.tree.size());
  for (uint32_t index = 0; index < record.tree.size(); ++index) {
    if (!hasStamp(record.tree, index)) continue;
    FileStamp& stamp = record.stamps[index];
    DH_TRY(stamp.inode, reader.varint());
    if (stamp.inode == 0) continue;
    DH_TRY(const uint64_t seconds, reader.varint());
    DH_TRY(const uint64_t nanoseconds, reader.varint(999'999'999));
    stamp.ctimeSeconds = unzigzag(seconds);
    stamp.ctimeNanoseconds = static_cast<uint32_t>(nanoseconds);
  }
  DH_CHECK(reader.expectEnd());
  return record;
}

std::optional<TreeRecord> readRecord(const std::string& path) {
  const auto file = File::openRegular(path);
  if (!file.ok()) return std::nullopt;
  const auto size = file.value().size();
  if (!size.ok() || size.value() > kMaxRecordBytes) return std::nullopt;
  Bytes bytes(size.value());
  const auto got = file.value().readAt(0, bytes);
  if (!got.ok() || got.value() != bytes.size()) return std::nullopt;
  auto record = decodeRecord(bytes);
  if (!record.ok()) return std::nullopt;
  return std::move(record).value();
}

Status writeRecord(const std::string& path, const Tree& tree, const std::vector<FileStamp>& stamps) {
  const std::string privatePath = path + ".new";
  if (::unlink(privatePath.c_str()) != 0 && errno != ENOENT) return systemError(errno, "remove " + privatePath);
  DH_TRY(File file, File::open(AT_FDCWD, privatePath, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  DH_CHECK(file.writeAt(0, encodeRecord(tree, stamps)));
  if (::rename(privatePath.c_str(), path.c_str()) != 0) return systemError(errno, "rename " + privatePath);
  return {};
}

void addRecordedDigests(const TreeRecord& record, Tree& tree, const std::vector<FileStamp>& stamps) {
  PairWalk walk(record.tree, tree);
  while (const auto pair = walk.next()) {
    if (pair->left == kNoEntry || pair->right == kNoEntry) continue;
    if (!hasStamp(record.tree, pair->left) || !hasStamp(tree, pair->right)) continue;
    const Digest* digest = record.tree.digest(pair->left);
    const FileStamp& stamp = record.stamps[pair->left];
    if (digest == nullptr || stamp.inode == 0 || stamp != stamps[pair->right]) continue;
    const Entry then = record.tree.entry(pair->left);
    const Entry now = tree.entry(pair->right);
    if (then.value != now.value || then.mtimeSeconds != now.mtimeSeconds ||
        then.mtimeNanoseconds != now.mtimeNanoseconds) {
      continue;
    }
    tree.setDigest(pair->right, *digest);
  }
}

}  // namespace deltahop
