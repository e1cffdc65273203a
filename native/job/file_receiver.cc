#include "job/file_receiver.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "hash/blake3.h"
#include "wire/reader.h"

namespace deltahop {
namespace {

// A group of finished files that is made durable together.
constexpr size_t kGroupFiles = 4096;
constexpr uint64_t kGroupBytes = 256 << 20;
constexpr size_t kSyncEachFiles = 8;

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
    default:
      return false;
  }
}

Result<File> FileReceiver::create(uint32_t index, std::string& name) {
  const std::string path = tree_.wanted.path(index);
  auto file = tree_.partial.create(path, name);
  if (!file.ok()) return withPath(file.error(), path);
  return file;
}

Status FileReceiver::begin(uint64_t number) {
  DH_TRY(BasisChoice choice, book_.take(number));
  auto incoming = std::make_unique<Incoming>();
  incoming->index = static_cast<uint32_t>(number);
  DH_TRY(incoming->basis, openBasis(tree_, *tree_.wantedParents, incoming->index, choice));
  DH_TRY(incoming->file, create(incoming->index, incoming->name));
  incoming->output.emplace(incoming->file);
  incoming->patcher.emplace(incoming->basis, *incoming->output);
  incoming_ = std::move(incoming);
  return {};
}

Status FileReceiver::onDelta(ByteSpan payload) {
  Reader reader(payload);
  DH_TRY(const uint64_t number, reader.varint());
  DH_TRY(const ByteSpan block, reader.take(reader.remaining()));
  if (incoming_ == nullptr) DH_CHECK(begin(number));
  if (incoming_->index != number) return Error{Code::kProtocol, "a file inside another", 0};
  if (incoming_->basisChanged) return {};
  const uint64_t before = incoming_->patcher->doneBytes();
  const Status applied = incoming_->patcher->apply(block);
  doneBytes_ += incoming_->patcher->doneBytes() - before;
  advance_(doneBytes_, doneFiles_);
  if (applied.ok()) return {};
  if (applied.error().code == Code::kChanged) {
    incoming_->basisChanged = true;
    return {};
  }
  return failIncoming(applied.error());
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
  Digest expected;
  std::copy(bytes.begin(), bytes.end(), expected.begin());
  bool right = false;
  if (!incoming_->basisChanged) {
    auto summary = incoming_->patcher->finish(size, expected);
    if (!summary.ok() && summary.error().code != Code::kMismatch) return failIncoming(summary.error());
    if (summary.ok()) {
      right = true;
      matchedBytes_ += summary.value().matchedBytes;
      literalBytes_ += summary.value().literalBytes;
      zeroBytes_ += summary.value().zeroBytes;
    }
  }
  const std::unique_ptr<Incoming> incoming = std::move(incoming_);
  if (!right) {
    tree_.partial.remove(incoming->name);
    if (repairing_) return Error{Code::kMismatch, tree_.wanted.path(incoming->index), 0};
    notes_.add(tree_.wanted.path(incoming->index) + ": did not match its digest, requested again");
    repairs_.push_back(incoming->index);
    return {};
  }
  return finishFile(incoming->index, incoming->file, incoming->name, flags, size);
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
  DH_TRY(const ByteSpan batch, unpacker_.unpack(outer));
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
    if ((flags & ~kFileChanged) != 0) return Error{Code::kUnsupported, "a flag of a small file", 0};
    DH_CHECK(book_.take(number));
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
    DH_CHECK(finishFile(index, file, name, flags, content.size()));
  }
  return {};
}

Status FileReceiver::onGone(ByteSpan payload) {
  Reader reader(payload);
  DH_TRY(const uint64_t number, reader.varint());
  DH_CHECK(reader.expectEnd());
  if (incoming_ != nullptr) {
    if (incoming_->index != number) return Error{Code::kProtocol, "a file inside another", 0};
    incoming_.reset();  // what arrived stays, as a basis for the next time
  } else {
    DH_CHECK(book_.take(number));
  }
  const auto index = static_cast<uint32_t>(number);
  tree_.missing[index] = true;
  ++goneFiles_;
  notes_.add(tree_.wanted.path(index) + ": vanished at the sender");
  return {};
}

Status FileReceiver::finishFile(uint32_t index, File& file, const std::string& name, uint8_t flags, uint64_t size) {
  Metadata metadata = metadataOf(tree_.wanted, index);
  // A file of two times must never look like the sender's: the next round has to look at it again.
  if (flags & kFileChanged) metadata.mtimeSeconds -= 1;
  const std::string path = tree_.wanted.path(index);
  const Status applied = applyMetadata(file.fd(), metadata, path, notes_);
  if (!applied.ok()) return applied;
  ++filesReceived_;
  ++doneFiles_;
  advance_(doneBytes_, doneFiles_);
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

std::vector<uint32_t> FileReceiver::takeRepairs() {
  repairing_ = true;
  repairedFiles_ = repairs_.size();
  std::sort(repairs_.begin(), repairs_.end());
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
  };
  for (const auto& [name, value] : counts) statistics[name] = static_cast<double>(value);
}

}  // namespace deltahop
