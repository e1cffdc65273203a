#include "job/shared_sender.h"

#include <algorithm>
#include <utility>

#include "codec/page_encoder.h"
#include "hash/content_digest.h"
#include "signature/signature.h"
#include "tree/manifest.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr size_t kManifestPieceBytes = 256 << 10;
constexpr size_t kSmallBatchBytes = 256 << 10;
constexpr uint64_t kMinSearchedBytes = 32 << 20;
// Files that are neither paged nor small are compressed beside their former selves up to here; for larger ones the
// search by rolling sums costs less than what it finds.
constexpr uint64_t kMaxPartedBytes = 8 << 20;
// A signature that is not sent costs nothing but memory.
constexpr uint32_t kMinLocalBlockBytes = 2048;
constexpr uint64_t kMaxLocalBlocks = 1 << 18;

}  // namespace

SharedSender::SharedSender(const FileSender::Surroundings& around, FileSender& files, const TreeRecord& basis,
                           const std::string& basisPath, std::function<Result<bool>()> stopped)
    : around_(around),
      files_(files),
      basis_(basis),
      stopped_(std::move(stopped)),
      manifest_(basis.tree),
      plan_(planTree(basis.tree, around.tree, around.options.verify)),
      moved_(basis.tree, around.tree),
      sections_(around.options.zstdLevel) {
  linked_.assign(basis.tree.size(), false);
  for (uint32_t index = 0; index < basis.tree.size(); ++index) {
    if (basis.tree.isFollower(index)) linked_[index] = linked_[basis.tree.entry(index).leader] = true;
  }
  auto root = Directory::openRoot(basisPath);
  if (!root.ok()) return;
  basisRoot_ = std::move(root).value();
  basisParents_.emplace(basisRoot_, basis.tree);
}

bool SharedSender::isSettled() const {
  const bool verify = around_.options.verify;
  return manifestDigest(basis_.tree, verify) == manifestDigest(around_.tree, verify);
}

Status SharedSender::send() {
  DH_TRY(const Outcome outcome, sendAll());
  if (outcome == Outcome::kStopped) files_.forget();
  DH_CHECK(around_.out.send(Message::kSharedEnd, {}));
  return around_.out.flush();
}

Result<SharedSender::Outcome> SharedSender::sendAll() {
  DH_TRY(Outcome outcome, sendManifest());
  // So that the link and the receiver have something to do while large files are searched.
  DH_CHECK(around_.out.flush());
  for (const bool searched : {false, true}) {
    if (outcome == Outcome::kSent) {
      DH_TRY(outcome, sendFiles(searched));
    }
    if (outcome == Outcome::kSent) DH_CHECK(flushAll());
  }
  return outcome;
}

Status SharedSender::flushAll() {
  DH_CHECK(flushSmall());
  DH_CHECK(files_.flush());
  return around_.out.flush();
}

// A file of pages so large that nothing of it goes out for a while.
bool SharedSender::isSearched(uint32_t index) const {
  const uint32_t partner = plan_.partners[index];
  if (partner == kNoEntry || !basis_.tree.isRegular(partner)) return false;
  const uint64_t bytes = around_.tree.fileBytes(index);
  return bytes >= kMinSearchedBytes && isPaged(bytes, basis_.tree.fileBytes(partner));
}

Result<SharedSender::Outcome> SharedSender::sendFiles(bool searched) {
  for (uint32_t index = 0; index < around_.tree.size(); ++index) {
    if (plan_.actions[index] != Action::kContent || isSearched(index) != searched) continue;
    DH_TRY(const bool stopped, stopped_());
    if (stopped) return Outcome::kStopped;
    DH_TRY(const Outcome outcome, sendFile(index));
    if (outcome == Outcome::kStopped) return outcome;
  }
  return Outcome::kSent;
}

Result<SharedSender::Outcome> SharedSender::sendManifest() {
  ManifestEncoder encoder(around_.tree, around_.options.verify);
  Bytes piece;
  uint32_t partner = 0;
  uint32_t entry = 0;
  for (bool more = true; more;) {
    DH_TRY(const bool stopped, stopped_());
    if (stopped) return Outcome::kStopped;
    // Where the piece's first entry was.
    for (; entry < encoder.entries(); ++entry) {
      if (plan_.partners[entry] != kNoEntry) partner = plan_.partners[entry];
    }
    piece.clear();
    more = encoder.next(piece, kManifestPieceBytes);
    Bytes payload;
    DH_CHECK(manifest_.encode(payload, sections_, piece, partner));
    DH_CHECK(around_.out.send(Message::kSharedManifest, payload));
  }
  DH_CHECK(around_.out.send(Message::kManifestEnd, {}));
  return Outcome::kSent;
}

// The old file, if it still is what the record says.
Result<File> SharedSender::openOld(uint32_t partner) {
  const Tree& tree = basis_.tree;
  if (!basisParents_.has_value()) return Error{Code::kNotFound, "no basis", 0};
  const uint32_t leader = tree.isFollower(partner) ? tree.entry(partner).leader : partner;
  DH_TRY(const Directory* parent, basisParents_->parentOf(partner));
  DH_TRY(File file, parent->openRegular(std::string(tree.name(partner))));
  DH_TRY(const struct stat status, file.stat());
  const FileStamp& stamp = basis_.stamps[leader];
  const FileStamp found{status.st_ino, status.st_ctim.tv_sec, static_cast<uint32_t>(status.st_ctim.tv_nsec)};
  const Entry entry = tree.entry(leader);
  if (stamp.inode == 0 || found != stamp || static_cast<uint64_t>(status.st_size) != entry.value ||
      status.st_mtim.tv_sec != entry.mtimeSeconds || status.st_mtim.tv_nsec != entry.mtimeNanoseconds) {
    return Error{Code::kChanged, "no basis any more", 0};
  }
  return file;
}

Result<SharedSender::Outcome> SharedSender::sendFile(uint32_t index) {
  const uint32_t partner = plan_.partners[index];
  const bool hasOld = partner != kNoEntry && basis_.tree.isRegular(partner) && basis_.tree.fileBytes(partner) > 0;
  FileSender::Source source;
  if (hasOld && maySame(index, partner)) {
    DH_TRY(const bool sent, sendSame(index, partner, source));
    if (sent) return Outcome::kSent;
  }
  File old;
  if (hasOld) {
    auto opened = openOld(partner);
    // The receiver still has it and will ask.
    if (!opened.ok()) return Outcome::kSent;
    old = std::move(opened).value();
  }
  // Moved or copied there, most likely: the receiver will find it and offer it when it asks.
  if (!hasOld && around_.tree.fileBytes(index) > 0 && moved_.find(index) != kNoEntry) return Outcome::kSent;
  if (!source.file.isOpen()) {
    DH_TRY(source, files_.open(index));
    if (!source.file.isOpen()) return Outcome::kSent;
  }
  const uint64_t bytes = source.bytes();
  const uint64_t oldBytes = hasOld ? basis_.tree.fileBytes(partner) : 0;
  if (!hasOld || bytes == 0) {
    const Key key{};  // nothing is looked for
    DH_CHECK(files_.sendWhole(index, std::move(source), key));
    return Outcome::kSent;
  }
  if (bytes <= kSmallFileBytes && oldBytes <= kSmallFileBytes) {
    DH_CHECK(sendSmall(index, std::move(source), old, oldBytes));
    return Outcome::kSent;
  }
  DH_CHECK(flushSmall());
  DH_CHECK(files_.flush());
  if (isPaged(bytes, oldBytes)) return sendPages(index, std::move(source), old);
  if (bytes <= kMaxPartedBytes && oldBytes <= kMaxPartedBytes) {
    return sendParts(index, std::move(source), old, oldBytes);
  }
  DH_CHECK(sendMatched(index, std::move(source), std::move(old)));
  return Outcome::kSent;
}

// A file of which perhaps the times alone are new: it has kept its size. Files of pages mostly do that; what is the
// same in them costs little anyway. One with further names must not get other times.
bool SharedSender::maySame(uint32_t index, uint32_t partner) const {
  const uint64_t bytes = around_.tree.fileBytes(index);
  return files_.maySaySame() && basis_.tree.fileBytes(partner) == bytes && !isPaged(bytes, bytes) &&
         basis_.tree.digest(partner) != nullptr && !linked_[partner];
}

// True if all about the file was said. Nothing of the old one is looked at. Leaves the file open if it was read.
Result<bool> SharedSender::sendSame(uint32_t index, uint32_t partner, FileSender::Source& source) {
  const Digest& old = *basis_.tree.digest(partner);
  if (const Digest* known = around_.tree.digest(index); known != nullptr) {
    if (*known != old) return false;
    DH_CHECK(files_.sendSame(index, *known));
    return true;
  }
  DH_TRY(source, files_.open(index));
  if (!source.file.isOpen()) return true;
  if (source.changed) return false;
  auto digest = files_.digestOf(source);
  if (!digest.ok()) {
    DH_CHECK(files_.sendFailure(index, std::move(digest).error()));
    return true;
  }
  pages_.readBytes += source.bytes();
  if (digest.value() != old) return false;
  DH_CHECK(files_.sendSame(index, digest.value()));
  return true;
}

Status SharedSender::sendSmall(uint32_t index, FileSender::Source source, const File& old, uint64_t oldBytes) {
  Bytes content(source.bytes());
  DH_TRY(const size_t got, source.file.readAt(0, content));
  content.resize(got);
  const size_t oldAt = smallOld_.size();
  smallOld_.resize(oldAt + oldBytes);
  DH_TRY(const size_t oldGot, old.readAt(0, std::span(smallOld_).subspan(oldAt)));
  if (oldGot < oldBytes) {
    smallOld_.resize(oldAt);
    return {};  // the receiver will ask
  }
  DH_CHECK(files_.checkUnchanged(index, source));
  small_.push_back(index);
  Writer writer(smallContents_);
  writer.u8(source.changed ? kFileChanged : 0);
  writer.bytes(content);
  pages_.readBytes += got + oldBytes;
  pages_.residualBytes += got;
  files_.sentFile(index, source.changed, contentDigest(content));
  return std::max(smallContents_.size(), smallOld_.size()) >= kSmallBatchBytes ? flushSmall() : Status();
}

Status SharedSender::flushSmall() {
  if (small_.empty()) return {};
  Bytes payload;
  Writer writer(payload);
  writer.raw(blake3(smallContents_));
  writer.varint(small_.size());
  uint32_t next = 0;
  for (const uint32_t index : small_) {
    writer.varint(index - next);
    next = index + 1;
  }
  DH_CHECK(sections_.write(payload, smallContents_, smallOld_));
  residualEncodedBytes_ += payload.size();
  small_.clear();
  smallContents_.clear();
  smallOld_.clear();
  return around_.out.send(Message::kSmallChanges, payload);
}

Result<SharedSender::Outcome> SharedSender::sendPages(uint32_t index, FileSender::Source source, const File& old) {
  bool stopped = false;
  PageBlockWriter blocks(around_.options.zstdLevel);
  PageEncoder encoder([&](PageBlock block) -> Status {
    DH_TRY(const bool refused, stopped_());
    if (refused) {
      stopped = true;
      return Error{Code::kCancelled, "the receiver holds another basis", 0};
    }
    blocks.setLevel(around_.level());
    DH_TRY(const Bytes written, blocks.write(block));
    Bytes payload;
    Writer writer(payload);
    writer.varint(index);
    writer.raw(written);
    residualEncodedBytes_ += payload.size();
    DH_CHECK(around_.out.send(Message::kPages, payload));
    return around_.out.flush();  // the receiver copies while the next is being found
  });
  DH_TRY(PageFile target, PageFile::open(source.file));
  DH_TRY(PageFile basis, PageFile::open(old));
  const uint64_t size = target.bytes();
  PageMatcher matcher(std::move(target), std::move(basis), encoder);
  auto digest = matcher.run([&](uint64_t done) {
    around_.advance(files_.doneBytes() + done, files_.doneFiles());
    return !around_.cancelled();
  });
  Status finished;
  if (digest.ok()) finished = encoder.finish();
  const PageStatistics& figures = matcher.statistics();
  pages_.readBytes += figures.readBytes;
  pages_.identityBytes += figures.identityBytes;
  pages_.sharedMatchedBytes += figures.sharedMatchedBytes;
  pages_.residualBytes += figures.residualBytes;
  pages_.freshBytes += figures.freshBytes;
  pages_.zeroBytes += figures.zeroBytes;
  if (stopped) return Outcome::kStopped;
  if (digest.ok() && !finished.ok()) digest = finished.error();
  if (!digest.ok()) {
    DH_CHECK(files_.sendFailure(index, std::move(digest).error()));
    return Outcome::kSent;
  }
  DH_CHECK(files_.checkUnchanged(index, source));
  DH_CHECK(files_.sendEnd(index, source.changed, size, digest.value()));
  return Outcome::kSent;
}

Result<SharedSender::Outcome> SharedSender::sendParts(uint32_t index, FileSender::Source source, const File& old,
                                                      uint64_t oldBytes) {
  ContentHasher hasher;
  Bytes part;
  Bytes beside;
  while (hasher.size() < source.bytes()) {
    DH_TRY(const bool stopped, stopped_());
    if (stopped) return Outcome::kStopped;
    const uint64_t offset = hasher.size();
    part.resize(std::min<uint64_t>(kMaxPartBytes, source.bytes() - offset));
    DH_TRY(const size_t got, source.file.readAt(offset, part));
    if (got < part.size()) {
      DH_CHECK(files_.sendFailure(index, Error{Code::kChanged, "became shorter while it was read", 0}));
      return Outcome::kSent;
    }
    // Around where it was, as far as that goes.
    const uint64_t most = std::min<uint64_t>(kMaxPartOldBytes, oldBytes);
    const uint64_t middle = offset + part.size() / 2;
    const uint64_t begin = std::min(middle > most / 2 ? middle - most / 2 : 0, oldBytes - most);
    beside.resize(most);
    DH_TRY(const size_t oldGot, old.readAt(begin, beside));
    if (oldGot < most) return Error{Code::kChanged, "a basis file became shorter", 0};
    hasher.update(part);
    Bytes payload;
    Writer writer(payload);
    writer.varint(index);
    writer.varint(begin);
    writer.varint(most);
    DH_CHECK(sections_.write(payload, part, beside));
    residualEncodedBytes_ += payload.size();
    DH_CHECK(around_.out.send(Message::kPart, payload));
    pages_.readBytes += part.size() + most;
    pages_.residualBytes += part.size();
  }
  DH_CHECK(files_.checkUnchanged(index, source));
  DH_CHECK(files_.sendEnd(index, source.changed, hasher.size(), hasher.finish()));
  return Outcome::kSent;
}

// By rolling sums, with a signature that nobody has to send. The file's own digest decides.
Status SharedSender::sendMatched(uint32_t index, FileSender::Source source, File old) {
  DH_TRY(const uint64_t oldBytes, old.size());
  std::vector<File> files;
  files.push_back(std::move(old));
  uint32_t blockBytes = kMinLocalBlockBytes;
  while (oldBytes / blockBytes > kMaxLocalBlocks) blockBytes *= 2;
  DH_TRY(const Basis basis, Basis::make(std::move(files), blockBytes));
  const Key key{};
  SignatureBuilder builder(basis, key, false);
  SignatureParser parser(key);
  for (;;) {
    DH_TRY(const Bytes piece, builder.next());
    if (piece.empty()) break;
    DH_CHECK(parser.feed(piece));
  }
  pages_.readBytes += builder.readBytes();
  DH_TRY(const Signature signature, parser.finish());
  return files_.sendDelta(index, std::move(source), signature);
}

void SharedSender::addTo(std::map<std::string, double>& statistics) const {
  const std::pair<const char*, uint64_t> sums[] = {{"readBytes", pages_.readBytes},
                                                   {"literalBytes", pages_.freshBytes},
                                                   {"zeroBytes", pages_.zeroBytes},
                                                   {"identityBytes", pages_.identityBytes},
                                                   {"sharedMatchedBytes", pages_.sharedMatchedBytes},
                                                   {"residualBytes", pages_.residualBytes},
                                                   {"residualEncodedBytes", residualEncodedBytes_}};
  for (const auto& [name, value] : sums) statistics[name] += static_cast<double>(value);
}

}  // namespace deltahop
