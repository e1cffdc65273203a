#include "job/file_sender.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "codec/delta_encoder.h"
#include "hash/content_digest.h"
#include "match/matcher.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr size_t kBatchBytes = 256 << 10;
// Some thousand files, of which all would be asked for again if one were not the same.
constexpr size_t kMaxListBytes = 4 << 10;
constexpr uint32_t kMaxEarlyBlockBytes = 64 << 10;

}  // namespace

/// A delta in the making. Without a matcher: the peer was told that there will be none.
struct FileSender::Delta {
  Delta(uint32_t number, Source opened) : index(number), source(std::move(opened)) {}

  const uint32_t index;
  Source source;
  std::optional<SignatureIndex> basis;
  std::optional<DeltaEncoder> encoder;
  std::optional<Matcher> matcher;
  ContentHasher hasher;
  std::optional<FileMatch> match;
  uint64_t flushedBytes = 0;  // of blocks
};

FileSender::FileSender(Surroundings surroundings)
    : around_(std::move(surroundings)),
      packer_(around_.options.zstdLevel),
      literals_(around_.options.zstdLevel),
      parents_(around_.root, around_.tree),
      sent_(around_.tree.size()) {}

FileSender::~FileSender() = default;

Result<FileSender::Source> FileSender::open(uint32_t index) {
  Source source;
  const Tree& tree = around_.tree;
  const auto openFile = [&]() -> Result<File> {
    DH_TRY(const Directory* parent, parents_.parentOf(index));
    return parent->openRegular(std::string(tree.name(index)));
  };
  auto file = openFile();
  if (!file.ok()) {
    const Code code = file.error().code;
    const bool vanished = code == Code::kNotFound || code == Code::kChanged || code == Code::kUnsafePath ||
                          file.error().sysErrno == ENOTDIR;
    const bool forbidden = file.error().sysErrno == EACCES;
    if ((vanished || forbidden) && around_.options.allowChanging) {
      DH_CHECK(sendGone(index, forbidden ? "may not be read" : "vanished before it was read"));
      return source;
    }
    Error error = std::move(file).error();
    error.context = tree.path(index) + ": " + error.context;
    return error;
  }
  source.file = std::move(file).value();
  DH_TRY(source.before, source.file.stat());
  const Entry entry = tree.entry(index);
  source.changed = static_cast<uint64_t>(source.before.st_size) != entry.value ||
                   source.before.st_mtim.tv_sec != entry.mtimeSeconds ||
                   source.before.st_mtim.tv_nsec != entry.mtimeNanoseconds;
  return source;
}

Status FileSender::checkUnchanged(uint32_t index, Source& source) {
  DH_TRY(const struct stat after, source.file.stat());
  const struct stat& before = source.before;
  source.changed |= after.st_size != before.st_size || after.st_mtim.tv_sec != before.st_mtim.tv_sec ||
                    after.st_mtim.tv_nsec != before.st_mtim.tv_nsec || after.st_ctim.tv_sec != before.st_ctim.tv_sec ||
                    after.st_ctim.tv_nsec != before.st_ctim.tv_nsec;
  if (!source.changed) return {};
  const std::string path = around_.tree.path(index);
  if (!around_.options.allowChanging) return Error{Code::kChanged, path + " changed while it was read", 0};
  ++changedFiles_;
  around_.notes.add(path + ": changed while it was read");
  return {};
}

Status FileSender::sendGone(uint32_t index, const char* why) {
  ++goneFiles_;
  around_.notes.add(around_.tree.path(index) + ": " + why);
  // Answers come in the order of requests: those of the batch first.
  DH_CHECK(flush());
  Bytes payload;
  Writer(payload).varint(index);
  return around_.out.send(Message::kGone, payload);
}

Status FileSender::sendWhole(uint32_t index, const Key& key) {
  DH_TRY(Source source, open(index));
  if (!source.file.isOpen()) return {};
  return sendWhole(index, std::move(source), key);
}

Status FileSender::sendWhole(uint32_t index, Source source, const Key& key) {
  const uint64_t size = source.bytes();
  if (size > kSmallFileBytes) {
    Signature none;
    none.key = key;
    none.blockBytes = kMinBlockBytes;
    return sendDelta(index, std::move(source), none);
  }
  content_.resize(static_cast<size_t>(size));
  DH_TRY(const size_t got, source.file.readAt(0, content_));
  content_.resize(got);
  DH_CHECK(checkUnchanged(index, source));
  Writer writer(batch_);
  writer.varint(index);
  writer.u8(source.changed ? kFileChanged : 0);
  writer.bytes(content_);
  readBytes_ += got;
  literalBytes_ += got;
  Digest digest{};
  if (around_.options.recordPath.has_value()) digest = contentDigest(content_);
  sentFile(index, source.changed, digest);
  return batch_.size() >= kBatchBytes ? flush() : Status();
}

Status FileSender::answerOffer(uint32_t index, ByteSpan offered, const Key& key) {
  DH_TRY(Source source, open(index));
  if (!source.file.isOpen()) return {};
  auto digest = digestOf(source);
  if (!digest.ok()) return sendFailure(index, std::move(digest).error());
  readBytes_ += source.bytes();
  const Digest sum = offerSum(key, digest.value());
  if (source.changed || !std::equal(offered.begin(), offered.end(), sum.begin())) {
    if (version_ < kDiffersVersion || source.bytes() <= kAlwaysWholeBytes) {
      return sendWhole(index, std::move(source), key);
    }
    if (!differs_.takes(index)) DH_CHECK(flushDiffers());
    differs_.add(index);
    return differs_.bytes() >= kMaxListBytes ? flushDiffers() : Status();
  }
  // What was read is what was offered, whatever becomes of the file now.
  return sendSame(index, digest.value());
}

Status FileSender::sendSame(uint32_t index, const Digest& digest) {
  if (!same_.takes(index)) DH_CHECK(flushSame());
  same_.add(index);
  sameDigests_.update(digest);
  if (!sent_[index]) matchedBytes_ += around_.tree.fileBytes(index);
  sentFile(index, false, digest);
  return same_.bytes() >= kMaxListBytes ? flushSame() : Status();
}

void FileSender::forget() {
  batch_.clear();
  (void)same_.take();
  sameDigests_ = Blake3();
}

Result<Digest> FileSender::digestOf(const Source& source) {
  if (source.bytes() <= kContentSegmentBytes) {
    // Looking for holes would cost more than reading them.
    content_.resize(source.bytes());
    DH_TRY(const size_t got, source.file.readAt(0, content_));
    if (got < content_.size()) return Error{Code::kChanged, "became shorter while it was read", 0};
    return contentDigest(content_);
  }
  return contentDigest(source.file, [&](uint64_t done) {
    around_.advance(doneBytes_ + done, filesSent_);
    return !around_.cancelled();
  });
}

Status FileSender::flushSame() {
  if (same_.isEmpty()) return {};
  Bytes payload;
  Writer writer(payload);
  if (version_ >= kDiffersVersion) writer.raw(sameDigests_.finish());
  writer.raw(same_.take());
  sameDigests_ = Blake3();
  return around_.out.send(Message::kSame, payload);
}

Status FileSender::flushDiffers() {
  return differs_.isEmpty() ? Status() : around_.out.send(Message::kDiffers, differs_.take());
}

LiteralStreamWriter* FileSender::stream() {
  if (version_ < kLiteralStreamVersion) return nullptr;
  literals_.setLevel(around_.level());
  return &literals_;
}

DeltaEncoder::BlockSink FileSender::blocksOf(uint32_t index) {
  return [this, index](Bytes block) {
    Bytes payload;
    Writer writer(payload);
    writer.varint(index);
    writer.raw(block);
    literals_.setLevel(around_.level());
    return around_.out.send(Message::kDelta, payload);
  };
}

Status FileSender::flush() {
  DH_CHECK(flushSame());
  DH_CHECK(flushDiffers());
  if (batch_.empty()) return {};
  Bytes payload;
  Writer(payload).raw(blake3(batch_));
  DH_CHECK(stream() != nullptr ? packer_.pack(payload, batch_, *stream()) : packer_.pack(payload, batch_));
  literalEncodedBytes_ += payload.size();
  batch_.clear();
  return around_.out.send(Message::kSmallFiles, payload);
}

Status FileSender::openDelta(uint32_t index, Source source, const Signature& signature, bool isWhole) {
  DH_CHECK(flush());
  delta_ = std::make_unique<Delta>(index, std::move(source));
  if (!delta_->source.file.isOpen()) return {};
  delta_->basis.emplace(signature, isWhole);
  delta_->encoder.emplace(blocksOf(index), around_.options.zstdLevel, stream());
  delta_->matcher.emplace(*delta_->basis, *delta_->encoder);
  delta_->match.emplace(delta_->source.file, *delta_->matcher, delta_->hasher);
  return {};
}

Status FileSender::beginDelta(uint32_t index, const Signature& growing) {
  if (delta_ == nullptr) {
    // The block after the last one says that this one is whole, and the size of the basis, which is not known yet, that
    // blocks may be so large.
    if (growing.blocks.size() < 2 || growing.blockBytes > kMaxEarlyBlockBytes) return {};
    DH_TRY(Source source, open(index));
    DH_CHECK(openDelta(index, std::move(source), growing, false));
  } else if (delta_->matcher.has_value()) {
    delta_->basis->update(false);
  }
  if (!delta_->matcher.has_value()) return {};
  Status matched = matchDelta();
  return matched.ok() ? matched : endDelta(std::move(matched).error());
}

Status FileSender::sendDelta(uint32_t index, const Signature& signature) {
  if (delta_ == nullptr) {
    DH_TRY(Source source, open(index));
    return sendDelta(index, std::move(source), signature);
  }
  if (delta_->matcher.has_value()) delta_->basis->update(true);
  return finishDelta();
}

Status FileSender::sendDelta(uint32_t index, Source source, const Signature& signature) {
  DH_CHECK(openDelta(index, std::move(source), signature, true));
  return finishDelta();
}

// Goes on as far as the index allows. Blocks of a large file do not wait for each other: the receiver has work to do.
Status FileSender::matchDelta() {
  Delta& delta = *delta_;
  Status flushed;
  const Status matched = delta.match->run([&](uint64_t done) {
    around_.advance(doneBytes_ + done, filesSent_);
    if (delta.encoder->statistics().blockBytes > delta.flushedBytes) {
      delta.flushedBytes = delta.encoder->statistics().blockBytes;
      flushed = around_.out.flush();
    }
    return flushed.ok() && !around_.cancelled();
  });
  return flushed.ok() ? matched : flushed;
}

Status FileSender::finishDelta() {
  if (!delta_->matcher.has_value()) {
    delta_.reset();
    return {};
  }
  Status matched = matchDelta();
  if (matched.ok()) matched = delta_->matcher->finish();
  if (matched.ok()) matched = delta_->encoder->finish();
  const MatchStatistics& match = delta_->matcher->statistics();
  addMatched(delta_->index, match.readBytes, match.matchedBytes, match.zeroBytes, delta_->encoder->statistics());
  falseMatches_ += match.falseMatches;
  const std::unique_ptr<Delta> delta = std::move(delta_);
  if (!matched.ok()) return sendFailure(delta->index, std::move(matched).error());
  DH_CHECK(checkUnchanged(delta->index, delta->source));
  return sendEnd(delta->index, delta->source.changed, delta->hasher.size(), delta->hasher.finish());
}

// There is nothing to be made of what may still come of the signature.
Status FileSender::endDelta(Error error) {
  delta_->match.reset();
  delta_->matcher.reset();
  return sendFailure(delta_->index, std::move(error));
}

Status FileSender::sendFailure(uint32_t index, Error error) {
  // Shrank under our hands: there is no content to speak of; the next round will have it.
  if (error.code == Code::kChanged && around_.options.allowChanging) return sendGone(index, "shrank while it was read");
  if (error.code != Code::kCancelled) error.context = around_.tree.path(index) + ": " + error.context;
  return error;
}

Status FileSender::sendEnd(uint32_t index, bool changed, uint64_t size, const Digest& digest) {
  Bytes payload;
  Writer writer(payload);
  writer.varint(index);
  writer.u8(changed ? kFileChanged : 0);
  writer.varint(size);
  writer.raw(digest);
  DH_CHECK(around_.out.send(Message::kFileEnd, payload));
  sentFile(index, changed, digest);
  return {};
}

void FileSender::addMatched(uint32_t index, uint64_t readBytes, uint64_t matchedBytes, uint64_t zeroBytes,
                            const EncodeStatistics& encoded) {
  readBytes_ += readBytes;
  literalBytes_ += encoded.literalBytes;
  literalEncodedBytes_ += encoded.literalEncodedBytes;
  if (sent_[index]) return;
  matchedBytes_ += matchedBytes;
  zeroBytes_ += zeroBytes;
}

void FileSender::sentFile(uint32_t index, bool changed, const Digest& digest) {
  if (!changed && around_.options.recordPath.has_value()) digests_[index] = digest;
  if (sent_[index]) return;
  sent_[index] = true;
  ++filesSent_;
  doneBytes_ += around_.tree.fileBytes(index);
  around_.advance(doneBytes_, filesSent_);
}

void FileSender::addTo(std::map<std::string, double>& statistics) const {
  const std::pair<const char*, uint64_t> counts[] = {
      {"filesSent", filesSent_},       {"readBytes", readBytes_},
      {"literalBytes", literalBytes_}, {"literalEncodedBytes", literalEncodedBytes_},
      {"matchedBytes", matchedBytes_}, {"zeroBytes", zeroBytes_},
      {"falseMatches", falseMatches_}, {"changedFiles", changedFiles_},
      {"goneFiles", goneFiles_},
  };
  for (const auto& [name, value] : counts) statistics[name] = static_cast<double>(value);
}

}  // namespace deltahop
