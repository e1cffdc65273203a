#include "job/file_receiver.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "codec/cloned_output.h"
#include "hash/blake3.h"
#include "hash/content_digest.h"
#include "job/offers.h"
#include "signature/signature.h"
#include "wire/reader.h"

namespace deltahop {
namespace {

// A group of finished files that is made durable together.
constexpr size_t kGroupFiles = 4096;
constexpr uint64_t kGroupBytes = 256 << 20;
constexpr size_t kSyncEachFiles = 8;
// Of one batch compressed beside old ones.
constexpr uint64_t kMaxSmallChanges = 256 << 10;
constexpr size_t kMaxSmallChangesBytes = 512 << 10;
// Below this, a thread costs more than it saves.
constexpr uint64_t kMinExpectedBytes = 8 << 20;
// Below this, cloning costs more than it saves.
constexpr uint64_t kMinCloneBytes = 1 << 20;

}  // namespace

Result<bool> FileReceiver::take(const Frame& frame) {
  switch (static_cast<Message>(frame.type)) {
    case Message::kDelta:
      DH_CHECK(onDelta(frame.payload));
      return true;
    case Message::kFileEnd:
      DH_CHECK(onFileEnd(frame.payload));
      return true;
    case Message::kSmallFiles:
      DH_CHECK(onSmallFiles(frame.payload));
      return true;
    case Message::kGone:
      DH_CHECK(onGone(frame.payload));
      return true;
    case Message::kSame:
      DH_CHECK(onSame(frame.payload));
      return true;
    case Message::kDiffers:
      DH_CHECK(onDiffers(frame.payload));
      return true;
    default:
      return false;
  }
}

Result<bool> FileReceiver::takeShared(const Frame& frame) {
  unasked_ = true;
  auto taken = takeUnasked(frame);
  unasked_ = false;
  return taken;
}

Result<bool> FileReceiver::takeUnasked(const Frame& frame) {
  switch (static_cast<Message>(frame.type)) {
    case Message::kPages:
      DH_CHECK(onPages(frame.payload));
      return true;
    case Message::kPart:
      DH_CHECK(onPart(frame.payload));
      return true;
    case Message::kSmallChanges:
      DH_CHECK(onSmallChanges(frame.payload));
      return true;
    default:
      return take(frame);
  }
}

Result<File> FileReceiver::create(uint32_t index, std::string& name) {
  const std::string path = tree_.wanted.path(index);
  auto file = tree_.partial.create(path, name);
  if (!file.ok()) return withPath(file.error(), path);
  return file;
}

Status FileReceiver::begin(uint64_t number) {
  // There a stream is of one file.
  if (version_ < kLiteralStreamVersion) literals_.restart();
  auto choice = book_.take(number);
  auto incoming = std::make_unique<Incoming>();
  incoming->index = static_cast<uint32_t>(number);
  if (!choice.ok()) {
    if (!unasked_ || number >= tree_.wanted.size()) return choice.error();
    incoming->dropped = true;
    incoming_ = std::move(incoming);
    return {};
  }
  if (repairing_ && !choice.value().leftOvers.empty()) incoming->wrongResult = choice.value().leftOvers.front();
  if (repairing_ && !choice.value().journal.empty()) incoming->wrongResult = choice.value().journal;
  DH_TRY(incoming->basis, openBasis(tree_, *tree_.wantedParents, incoming->index, choice.value()));
  incoming->basisChanged = choice.value().bytes != 0 && choice.value().bytes != incoming->basis.size();
  if (options_.inPlace && choice.value().live) DH_CHECK(beginInPlace(*incoming));
  if (incoming->output == nullptr) DH_CHECK(beginPrivately(*incoming, !choice.value().common));
  incoming->patcher.emplace(incoming->basis, *incoming->output, kMaxFileBytes, &literals_);
  if (incoming->inPlace != nullptr && expected_ == incoming->index) {
    incoming->segments = std::move(expectedSegments_);
    incoming->patcher->know(incoming->segments.get());
  }
  incoming_ = std::move(incoming);
  return {};
}

void FileReceiver::expectInPlace(const std::vector<uint32_t>& indexes) {
  if (!options_.inPlace) return;
  uint64_t most = kMinExpectedBytes - 1;
  for (const uint32_t index : indexes) {
    const uint32_t partner = tree_.plan.partners[index];
    if (partner == kNoEntry || !tree_.own.isRegular(partner) || tree_.own.fileBytes(partner) <= most) continue;
    most = tree_.own.fileBytes(partner);
    expected_ = index;
  }
  if (expected_ == kNoEntry) return;
  auto opened = openForPatch(expected_);
  if (opened.ok()) expectedSegments_ = std::make_unique<SegmentDigests>(std::move(opened).value(), most);
}

Result<File> FileReceiver::openForPatch(uint32_t index) const {
  DH_TRY(const Directory* parent, tree_.wantedParents->parentOf(index));
  return parent->open(std::string(tree_.wanted.name(index)), O_RDWR);
}

// Sets no output if the file is better, or must be, replaced.
Status FileReceiver::beginInPlace(Incoming& incoming) {
  const uint64_t liveBytes = incoming.basis.spans().front().bytes;
  if (std::min(liveBytes, tree_.wanted.fileBytes(incoming.index)) <= kSmallFileBytes) return {};
  auto opened = openForPatch(incoming.index);
  if (!opened.ok()) return {};  // read-only, or a program that runs
  DH_TRY(const struct stat status, opened.value().stat());
  // A further name of it may be another file's in the tree that is wanted.
  if (!S_ISREG(status.st_mode) || status.st_nlink != 1) return {};
  const std::string path = tree_.wanted.path(incoming.index);
  auto journal = tree_.partial.createJournal(path, incoming.name);
  if (!journal.ok()) return withPath(journal.error(), path);
  DH_TRY(auto output, InPlaceOutput::begin(std::move(opened).value(), path, std::move(journal).value(),
                                           incoming.basis.overlay(), options_.durable));
  incoming.inPlace = output.get();
  incoming.output = std::move(output);
  return {};
}

// `isLikely`: its basis is what it was, so that most of it may stay.
Status FileReceiver::beginPrivately(Incoming& incoming, bool isLikely) {
  DH_TRY(incoming.file, create(incoming.index, incoming.name));
  const auto& spans = incoming.basis.spans();
  if (isLikely && canClone_ && !spans.empty() && spans.front().bytes >= kMinCloneBytes) {
    // Two clones: one is read and stays as it is, whatever becomes of the file at the path; one becomes the new file.
    auto frozen = File::open(tree_.partial.directory().fd(), ".", O_TMPFILE | O_RDWR, 0600);
    Status cloned = frozen.ok() ? incoming.basis.freezeFirst(std::move(frozen).value()) : Status(frozen.error());
    if (cloned.ok()) cloned = cloneFile(incoming.basis.first(), incoming.file);
    if (cloned.ok()) {
      incoming.output = std::make_unique<ClonedOutput>(incoming.file, spans.front().bytes);
      ++clonedFiles_;
      return {};
    }
    canClone_ = cloned.error().code != Code::kUnsupported;
  }
  incoming.output = std::make_unique<FileOutput>(incoming.file);
  return {};
}

// The index of a message that belongs to a file whose content is arriving.
Result<uint64_t> FileReceiver::goOn(Reader& reader) {
  DH_TRY(const uint64_t number, reader.varint());
  if (incoming_ == nullptr) DH_CHECK(begin(number));
  if (incoming_->index != number) return Error{Code::kProtocol, "a file inside another", 0};
  return number;
}

Status FileReceiver::applied(uint64_t doneBefore, const Status& status, bool shared) {
  doneBytes_ += incoming_->patcher->doneBytes() - doneBefore;
  advance_(doneBytes_, doneFiles_);
  if (status.ok()) return {};
  // Bytes that do not fit may come of a basis that was written since it was looked at: the file is asked for once more.
  if (status.error().code == Code::kChanged || (shared && status.error().code == Code::kCorrupt)) {
    incoming_->basisChanged = true;
    return {};
  }
  return failIncoming(status.error());
}

Status FileReceiver::onDelta(ByteSpan payload) {
  Reader reader(payload);
  DH_CHECK(goOn(reader));
  DH_TRY(const ByteSpan block, reader.take(reader.remaining()));
  if (incoming_->basisChanged || incoming_->dropped) return skipDeltaBlock(block, literals_);
  const uint64_t before = incoming_->patcher->doneBytes();
  return applied(before, incoming_->patcher->apply(block), false);
}

Status FileReceiver::onPages(ByteSpan payload) {
  Reader reader(payload);
  DH_CHECK(goOn(reader));
  DH_TRY(const ByteSpan block, reader.take(reader.remaining()));
  if (incoming_->basisChanged || incoming_->dropped) return {};
  const uint64_t before = incoming_->patcher->doneBytes();
  return applied(before, incoming_->patcher->applyPages(block), true);
}

Status FileReceiver::onPart(ByteSpan payload) {
  Reader reader(payload);
  DH_CHECK(goOn(reader));
  DH_TRY(const uint64_t begin, reader.varint());
  DH_TRY(const uint64_t length, reader.varint(kMaxPartOldBytes));
  if (incoming_->dropped) return {};
  const uint64_t basisBytes = incoming_->basis.size();
  if (begin > basisBytes || length > basisBytes - begin) return Error{Code::kCorrupt, "a part of no basis", 0};
  if (incoming_->basisChanged) return {};
  const uint64_t before = incoming_->patcher->doneBytes();
  old_.resize(length);
  Status status = incoming_->basis.readAt(begin, old_);
  if (status.ok()) status = sections_.read(reader, kMaxPartBytes, content_, old_);
  if (status.ok()) status = reader.expectEnd();
  if (status.ok()) status = incoming_->patcher->append(content_);
  return applied(before, status, true);
}

Status FileReceiver::onFileEnd(ByteSpan payload) {
  Reader reader(payload);
  DH_TRY(const uint64_t number, reader.varint());
  DH_TRY(const uint8_t flags, reader.u8());
  DH_TRY(const uint64_t size, reader.varint(kMaxFileBytes));
  DH_TRY(const ByteSpan bytes, reader.take(sizeof(Digest)));
  DH_CHECK(reader.expectEnd());
  if ((flags & ~kFileChanged) != 0) return Error{Code::kUnsupported, "a flag of a file's end", 0};
  if (incoming_ == nullptr) DH_CHECK(begin(number));
  if (incoming_->index != number) return Error{Code::kProtocol, "a file inside another", 0};
  if (incoming_->dropped) {
    incoming_.reset();
    return {};
  }
  Digest expected;
  std::copy(bytes.begin(), bytes.end(), expected.begin());
  return end(flags, size, expected);
}

// All of the file has come.
Status FileReceiver::end(uint8_t flags, uint64_t size, const Digest& expected) {
  bool right = false;
  if (!incoming_->basisChanged) {
    auto summary = incoming_->patcher->finish(size, expected);
    if (!summary.ok() && summary.error().code != Code::kMismatch) return failIncoming(summary.error());
    if (summary.ok()) {
      right = true;
      matchedBytes_ += summary.value().matchedBytes;
      keptBytes_ += summary.value().keptBytes;
      literalBytes_ += summary.value().literalBytes;
      zeroBytes_ += summary.value().zeroBytes;
    }
  }
  const std::unique_ptr<Incoming> incoming = std::move(incoming_);
  if (!right) {
    if (repairing_) {
      tree_.partial.remove(incoming->name);
      return Error{Code::kMismatch, tree_.wanted.path(incoming->index), 0};
    }
    notes_.add(tree_.wanted.path(incoming->index) + ": did not match its digest, requested again");
    keepForRepair(*incoming);
    return {};
  }
  if (!incoming->wrongResult.empty()) tree_.partial.remove(incoming->wrongResult);
  if (incoming->inPlace != nullptr) return finishInPlace(*incoming, flags, expected);
  return finishFile(incoming->index, incoming->file, incoming->name, flags, size, expected);
}

// Most of what came is right. A journal lies over the file that is there.
void FileReceiver::keepForRepair(const Incoming& incoming) {
  BasisChoice result;
  result.blockBytes = kMinBlockBytes;
  if (incoming.inPlace != nullptr) {
    result.live = true;
    result.journal = incoming.name;
  } else {
    result.leftOvers.push_back(incoming.name);
  }
  repairs_.push_back({incoming.index, std::move(result)});
}

Status FileReceiver::finishInPlace(Incoming& incoming, uint8_t flags, const Digest& digest) {
  const std::string path = tree_.wanted.path(incoming.index);
  const Status committed = incoming.inPlace->commit();
  if (!committed.ok()) {
    // The file is the old one still, unless the journal was sealed: then it is needed.
    if (committed.error().code == Code::kNoSpace && !incoming.inPlace->isSealed()) tree_.partial.remove(incoming.name);
    return withPath(committed.error(), path);
  }
  DH_CHECK(applyMetadata(incoming.inPlace->file().fd(), metadataFor(incoming.index, flags), path, notes_));
  tree_.partial.remove(incoming.name);
  tree_.partial.removeLeftOvers(path);
  if (options_.recordPath.has_value()) digests_[incoming.index] = digest;
  ++patchedFiles_;
  countFile();
  return {};
}

Status FileReceiver::failIncoming(const Error& error) {
  const std::unique_ptr<Incoming> incoming = std::move(incoming_);
  // A full disk is not kept full; anything else may help the next transfer.
  if (error.code == Code::kNoSpace) tree_.partial.remove(incoming->name);
  return withPath(error, tree_.wanted.path(incoming->index));
}

Status FileReceiver::onSmallFiles(ByteSpan payload) {
  if (incoming_ != nullptr) return Error{Code::kProtocol, "a file inside another", 0};
  Reader outer(payload);
  DH_TRY(const ByteSpan expected, outer.take(sizeof(Digest)));
  DH_TRY(const ByteSpan batch, unpacker_.unpack(outer, literals_));
  const Digest digest = blake3(batch);
  if (!std::equal(digest.begin(), digest.end(), expected.begin())) {
    // No single file can be told apart, and a stream that does this is not to be trusted further.
    return Error{Code::kMismatch, "a batch of small files", 0};
  }
  Reader reader(batch);
  while (reader.remaining() > 0) {
    DH_TRY(const uint64_t number, reader.varint());
    DH_TRY(const uint8_t flags, reader.u8());
    DH_TRY(const ByteSpan content, reader.bytes(kSmallFileBytes));
    DH_CHECK(makeSmall(number, flags, content));
  }
  return {};
}

Status FileReceiver::makeSmall(uint64_t number, uint8_t flags, ByteSpan content) {
  if ((flags & ~kFileChanged) != 0) return Error{Code::kUnsupported, "a flag of a small file", 0};
  const auto asked = book_.take(number);
  if (!asked.ok()) {
    if (!unasked_ || number >= tree_.wanted.size()) return asked.error();
    return {};
  }
  const auto index = static_cast<uint32_t>(number);
  std::string name;
  DH_TRY(File file, create(index, name));
  FileOutput output(file);
  Status written = output.write(content);
  if (written.ok()) written = output.finish(content.size());
  if (!written.ok()) {
    tree_.partial.remove(name);
    return withPath(written.error(), tree_.wanted.path(index));
  }
  literalBytes_ += content.size();
  doneBytes_ += content.size();
  Digest digest{};
  if (options_.recordPath.has_value()) digest = contentDigest(content);
  return finishFile(index, file, name, flags, content.size(), digest);
}

// All of the old file at the path of a wanted one.
Status FileReceiver::readOld(uint64_t index, Bytes& output) {
  const uint32_t partner = index < tree_.wanted.size() ? tree_.plan.partners[index] : kNoEntry;
  if (partner == kNoEntry || !tree_.own.isRegular(partner) || tree_.own.fileBytes(partner) > kSmallFileBytes) {
    return Error{Code::kProtocol, "a small file without an old one", 0};
  }
  const auto entry = static_cast<uint32_t>(index);
  const size_t at = output.size();
  output.resize(at + tree_.own.fileBytes(partner));
  DH_TRY(const Directory* parent, tree_.wantedParents->parentOf(entry));
  DH_TRY(const File file, parent->openRegular(std::string(tree_.wanted.name(entry))));
  DH_TRY(const size_t got, file.readAt(0, std::span(output).subspan(at)));
  if (at + got < output.size()) return Error{Code::kChanged, tree_.wanted.path(entry) + " became shorter", 0};
  return {};
}

Status FileReceiver::onSmallChanges(ByteSpan payload) {
  if (incoming_ != nullptr) return Error{Code::kProtocol, "a file inside another", 0};
  Reader outer(payload);
  DH_TRY(const ByteSpan expected, outer.take(sizeof(Digest)));
  DH_TRY(const uint64_t count, outer.varint(kMaxSmallChanges));
  std::vector<uint64_t> numbers;
  uint64_t next = 0;
  for (uint64_t i = 0; i < count; ++i) {
    DH_TRY(const uint64_t step, outer.varint(tree_.wanted.size()));
    numbers.push_back(next + step);
    next += step + 1;
  }
  const auto decode = [&]() -> Status {
    old_.clear();
    for (const uint64_t number : numbers) {
      DH_CHECK(readOld(number, old_));
      if (old_.size() > kMaxPartOldBytes) return Error{Code::kLimit, "old bytes beside small files", 0};
    }
    DH_CHECK(sections_.read(outer, kMaxSmallChangesBytes, content_, old_));
    DH_CHECK(outer.expectEnd());
    const Digest digest = blake3(content_);
    if (std::equal(digest.begin(), digest.end(), expected.begin())) return {};
    return Error{Code::kMismatch, "a batch of small files", 0};
  };
  const Status decoded = decode();
  if (!decoded.ok()) {
    // Old files that were written since they were looked at: all of the batch will be asked for.
    notes_.add("small files did not fit what lies here (" + decoded.error().context + ")");
    return {};
  }
  Reader reader(content_);
  for (const uint64_t number : numbers) {
    DH_TRY(const uint8_t flags, reader.u8());
    DH_TRY(const ByteSpan content, reader.bytes(kSmallFileBytes));
    DH_CHECK(makeSmall(number, flags, content));
  }
  return reader.expectEnd();
}

Status FileReceiver::onGone(ByteSpan payload) {
  Reader reader(payload);
  DH_TRY(const uint64_t number, reader.varint());
  DH_CHECK(reader.expectEnd());
  // Of files that are asked about at once, one may be found gone while another arrives.
  if (incoming_ != nullptr && incoming_->index == number) {
    const bool dropped = incoming_->dropped;
    incoming_.reset();  // what arrived stays, as a basis for the next time
    if (dropped) return {};
  } else {
    const auto asked = book_.take(number);
    if (!asked.ok()) {
      if (!unasked_ || number >= tree_.wanted.size()) return asked.error();
      return {};
    }
  }
  const auto index = static_cast<uint32_t>(number);
  tree_.missing[index] = true;
  ++goneFiles_;
  notes_.add(tree_.wanted.path(index) + ": vanished at the sender");
  return {};
}

// The files are what was offered for them, which may have been written since, or be gone.
Status FileReceiver::onSame(ByteSpan payload) {
  if (incoming_ != nullptr) return Error{Code::kProtocol, "a file inside another", 0};
  DH_TRY(const SameFiles same, readSame(payload, tree_.wanted.size(), version_ >= kDiffersVersion));
  if (unasked_) return onSameAsOld(same);
  std::vector<BasisChoice> choices;
  Blake3 digests;
  for (const uint32_t index : same.indexes) {
    DH_TRY(choices.emplace_back(), book_.choiceOf(index));
    if (choices.back().offered == kNoEntry) return Error{Code::kProtocol, "the same as nothing", 0};
    digests.update(choices.back().digest);
  }
  // One of the guesses was wrong: all of them are asked for in another way.
  const bool wrong = same.digests.has_value() && digests.finish() != *same.digests;
  for (size_t i = 0; i < choices.size(); ++i) {
    DH_CHECK(wrong ? book_.differs(same.indexes[i]) : makeSame(same.indexes[i], choices[i]));
  }
  return {};
}

// The files are what the basis, which is what lies here, has at their paths. Those that stay open are asked for.
Status FileReceiver::onSameAsOld(const SameFiles& same) {
  Blake3 digests;
  for (const uint32_t index : same.indexes) {
    const uint32_t own = tree_.plan.partners[index];
    const Digest* digest = own != kNoEntry && tree_.own.isRegular(own) ? tree_.own.digest(own) : nullptr;
    if (digest == nullptr) return Error{Code::kProtocol, "the same as nothing", 0};
    digests.update(*digest);
  }
  if (!same.digests.has_value() || digests.finish() != *same.digests) return {};
  for (const uint32_t index : same.indexes) {
    const uint32_t own = tree_.plan.partners[index];
    const bool wanted = book_.choiceOf(index).ok() && tree_.own.fileBytes(own) == tree_.wanted.fileBytes(index);
    if (wanted) DH_CHECK(keepAtPath(index, own, *tree_.own.digest(own)));
  }
  return {};
}

Status FileReceiver::onDiffers(ByteSpan payload) {
  if (incoming_ != nullptr) return Error{Code::kProtocol, "a file inside another", 0};
  Reader reader(payload);
  DH_TRY(const std::vector<uint32_t> indexes, readFileList(reader, tree_.wanted.size()));
  for (const uint32_t index : indexes) DH_CHECK(book_.differs(index));
  return {};
}

// Another file is copied; that at the path stays where it is.
Status FileReceiver::makeSame(uint32_t index, const BasisChoice& choice) {
  if (choice.offered != tree_.plan.partners[index]) {
    DH_CHECK(begin(index));
    if (!incoming_->basisChanged) DH_CHECK(applied(0, incoming_->patcher->copyAll(), true));
    return end(0, choice.bytes, choice.digest);
  }
  DH_TRY(const bool kept, keepAtPath(index, choice.offered, choice.digest));
  return kept ? Status() : book_.differs(index);
}

// False if the file has been written since it was looked at, or is gone.
Result<bool> FileReceiver::keepAtPath(uint32_t index, uint32_t own, const Digest& digest) {
  DH_TRY(const Directory* parent, tree_.wantedParents->parentOf(index));
  const auto file = parent->openRegular(std::string(tree_.wanted.name(index)));
  const auto status = file.ok() ? file.value().stat() : Result<struct stat>(file.error());
  if (!status.ok() || !mayStay(tree_, own, status.value())) return false;
  DH_CHECK(applyMetadata(file.value().fd(), metadataFor(index, 0), tree_.wanted.path(index), notes_));
  DH_CHECK(book_.take(index));
  if (options_.recordPath.has_value()) digests_[index] = digest;
  matchedBytes_ += tree_.own.fileBytes(own);
  doneBytes_ += tree_.own.fileBytes(own);
  countFile();
  return true;
}

Metadata FileReceiver::metadataFor(uint32_t index, uint8_t flags) const {
  Metadata metadata = metadataOf(tree_.wanted, index);
  // A file of two times must never look like the sender's: the next round has to look at it again.
  if (flags & kFileChanged) metadata.mtimeSeconds -= 1;
  return metadata;
}

void FileReceiver::countFile() {
  ++filesReceived_;
  ++doneFiles_;
  advance_(doneBytes_, doneFiles_);
}

Status FileReceiver::finishFile(uint32_t index, File& file, const std::string& name, uint8_t flags, uint64_t size,
                                const Digest& digest) {
  if (options_.recordPath.has_value()) digests_[index] = digest;
  const std::string path = tree_.wanted.path(index);
  const Status applied = applyMetadata(file.fd(), metadataFor(index, flags), path, notes_);
  if (!applied.ok()) return applied;
  countFile();
  if (!options_.durable) return commit(Finished{index, name});
  group_.push_back(Finished{index, name});
  groupBytes_ += size;
  return group_.size() >= kGroupFiles || groupBytes_ >= kGroupBytes ? commitGroup() : Status();
}

// All temporaries on stable storage, then the renames: a crash leaves each path old or new, never half.
Status FileReceiver::commitGroup() {
  if (group_.empty()) return {};
  if (group_.size() > kSyncEachFiles) {
    if (::syncfs(tree_.partial.directory().fd()) != 0) return systemError(errno, "sync files");
  } else {
    for (const Finished& finished : group_) {
      DH_TRY(File file, tree_.partial.directory().open(finished.name, O_RDONLY));
      DH_CHECK(file.sync());
    }
  }
  groupBytes_ = 0;
  for (const Finished& finished : std::exchange(group_, {})) DH_CHECK(commit(finished));
  return {};
}

Status FileReceiver::commit(const Finished& finished) {
  DH_CHECK(tree_.renameInto(finished.index, finished.name, options_.deleteOthers));
  tree_.partial.removeLeftOvers(tree_.wanted.path(finished.index));
  return {};
}

void FileReceiver::keepFinished(const Error& error) {
  incoming_.reset();
  if (error.code == Code::kNoSpace || group_.empty()) return;
  const Status kept = commitGroup();
  if (!kept.ok()) group_.clear();  // they stay as left-overs
}

std::vector<Repair> FileReceiver::takeRepairs() {
  repairing_ = true;
  repairedFiles_ = repairs_.size();
  std::sort(repairs_.begin(), repairs_.end(),
            [](const Repair& left, const Repair& right) { return left.index < right.index; });
  return std::exchange(repairs_, {});
}

void FileReceiver::skip(uint64_t files, uint64_t bytes) {
  doneFiles_ += files;
  doneBytes_ += bytes;
  advance_(doneBytes_, doneFiles_);
}

void FileReceiver::addTo(std::map<std::string, double>& statistics) const {
  const std::pair<const char*, uint64_t> counts[] = {
      {"filesReceived", filesReceived_}, {"literalBytes", literalBytes_},   {"matchedBytes", matchedBytes_},
      {"zeroBytes", zeroBytes_},         {"repairedFiles", repairedFiles_}, {"goneFiles", goneFiles_},
      {"patchedFiles", patchedFiles_},   {"clonedFiles", clonedFiles_},     {"keptBytes", keptBytes_},
  };
  for (const auto& [name, value] : counts) statistics[name] = static_cast<double>(value);
}

}  // namespace deltahop
