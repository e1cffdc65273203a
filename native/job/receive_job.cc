#include "job/receive_job.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <new>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/hex.h"
#include "codec/patcher.h"
#include "io/basis.h"
#include "job/transfer_job.h"
#include "signature/signature.h"
#include "tree/itemize.h"
#include "tree/manifest.h"
#include "tree/partial_directory.h"
#include "tree/scan.h"
#include "tree/tree_plan.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr size_t kRequestGatherBytes = 16 << 10;
constexpr size_t kMaxIndexesPerRequest = 4096;
// Up to this size a signature costs about as much as the file.
constexpr uint64_t kAlwaysWholeBytes = 512;
// A group of finished files that is made durable together.
constexpr size_t kGroupFiles = 4096;
constexpr uint64_t kGroupBytes = 256 << 20;
constexpr size_t kSyncEachFiles = 8;

Error withPath(Error error, const std::string& path) {
  error.context = path + ": " + error.context;
  return error;
}

class ReceiveJob final : public TransferJob {
 public:
  explicit ReceiveJob(ReceiveJobOptions options) : options_(std::move(options)) {}
  ~ReceiveJob() override { stop(); }

 protected:
  Result<JobReport> transfer() override {
    // This thread applies what arrives, so it never waits for the peer to read.
    MessageWriter out([this](Bytes buffer) { return writeNow(std::move(buffer)); }, 0);
    DH_CHECK(sendHello(out));
    DH_CHECK(openTarget());
    DH_CHECK(receiveHello());
    DH_CHECK(readOwnTree());
    DH_TRY(const bool settled, receiveTree());
    std::string text;
    if (settled) {
      filesSettled_ = own_.totalFiles();
      DH_CHECK(out.send(Message::kSettled, {}));
      if (!options_.dryRun) {
        DH_TRY(partial_, PartialDirectory::open(root_));
        if (partial_.directory().isOpen()) {
          DH_CHECK(partial_.removeAll());
          if (!options_.entryName.has_value()) DH_CHECK(applyMetadata(root_.fd(), metadataOf(own_, 0), ".", notes()));
        }
      }
    } else {
      DH_CHECK(out.send(Message::kManifestWanted, {}));
      DH_CHECK(receiveManifest());
      keepWhatIsNotToGo();
      if (options_.itemize) text = itemizeChanges();
    }
    if (!settled && !options_.dryRun) {
      DH_TRY(partial_, PartialDirectory::open(root_));
      const Status applied = apply();
      sentBytes_ += requesterSentBytes_;
      if (!applied.ok()) {
        keepFinished(applied.error());
        return applied.error();
      }
    }
    if (options_.treeDigest) {
      DH_TRY(text, digestOfResult());
    }
    Bytes done;
    Writer writer(done);
    writer.varint(filesSettled_);
    writer.varint(repairedFiles_);
    writer.varint(deletedEntries_);
    DH_CHECK(out.send(Message::kDone, done));
    sentBytes_ += out.sentBytes();
    advance(true);
    return finishReport(std::move(text));
  }

 private:
  // How a file was asked for: the answer is applied to the same basis.
  struct Asked {
    bool live = false;                   // the file at the path itself is the first part of the basis
    std::vector<std::string> leftOvers;  // what earlier transfers left, the others
    uint32_t blockBytes = kMinBlockBytes;
  };

  // A file whose delta is arriving.
  struct Incoming {
    uint32_t index = 0;
    std::string name;  // in the partial directory
    File file;
    Basis basis;
    std::optional<FileOutput> output;
    std::optional<Patcher> patcher;
    bool basisChanged = false;
  };

  struct Finished {
    uint32_t index = 0;
    std::string name;
  };

  static Error unexpected(const Frame& frame) {
    return Error{Code::kProtocol, "unexpected message " + std::to_string(frame.type), 0};
  }

  // --- Getting to know each other

  Status sendHello(MessageWriter& out) {
    if (::getrandom(key_.data(), key_.size(), 0) != static_cast<ssize_t>(key_.size())) {
      return systemError(errno, "draw a key");
    }
    Bytes payload;
    Writer writer(payload);
    writer.u32(kTransferMagic);
    writer.u16(kOldestTransferVersion);
    writer.u16(kTransferVersion);
    writer.raw(key_);
    return out.send(Message::kReceiverHello, payload);
  }

  Status openTarget() {
    if (options_.entryName.has_value() &&
        (!isSafeName(*options_.entryName) || *options_.entryName == kPartialDirectory)) {
      return Error{Code::kUnsafePath, "name '" + *options_.entryName + "' is not allowed in a tree", 0};
    }
    auto opened = Directory::openRoot(options_.rootPath);
    if (opened.ok()) opened = opened.value().openBeneath(options_.beneath);
    if (opened.ok()) {
      root_ = std::move(opened).value();
      return {};
    }
    if (opened.error().code != Code::kNotFound) return opened.error();
    rootIsNew_ = true;
    if (options_.dryRun) return {};
    // A directory that is not the tree's own root gets what the user's umask leaves; the root gets the sender's mode.
    const mode_t mode = options_.entryName.has_value() ? 0777 : 0700;
    DH_TRY(const Directory above, Directory::openOrMakeRoot(options_.rootPath, options_.beneath.empty() ? mode : 0777));
    DH_TRY(root_, above.openOrMakeBeneath(options_.beneath, mode));
    return {};
  }

  Status receiveHello() {
    DH_TRY(const Frame hello, receive());
    if (hello.type != static_cast<uint8_t>(Message::kSenderHello)) return unexpected(hello);
    Reader reader(hello.payload);
    DH_TRY(const uint32_t magic, reader.u32());
    if (magic != kTransferMagic) return Error{Code::kProtocol, "the peer is no sender of trees", 0};
    DH_TRY(const uint16_t oldest, reader.u16());
    DH_TRY(const uint16_t newest, reader.u16());
    if (oldest > kTransferVersion || newest < kOldestTransferVersion) {
      return Error{Code::kUnsupported, "the sender's version of the transfer", 0};
    }
    DH_TRY(const uint8_t flags, reader.u8());
    if ((flags & ~kHelloVerify) != 0) return Error{Code::kUnsupported, "a flag of the sender's hello", 0};
    verify_ = (flags & kHelloVerify) != 0;
    return reader.expectEnd();
  }

  // While the sender does the same with its own.
  Status readOwnTree() {
    const CancelCheck check = [this] { return cancelled(); };
    const Stopwatch scanWatch;
    if (!root_.isOpen()) return {};  // a dry run to where nothing is yet
    Notes ownNotes;                  // a socket of our own is deleted, not reported
    DH_TRY(ScanResult scanned, scanTree(root_, {{}, options_.entryName}, ownNotes, check));
    own_ = std::move(scanned.tree);
    statistics_["scanMs"] = scanWatch.ms();
    if (verify_) {
      const Stopwatch watch;
      DH_CHECK(addContentDigests(root_, own_, {false, {}}, check));
      statistics_["digestMs"] = watch.ms();
    }
    return {};
  }

  // True if the sender's tree is our own, so that nothing has to be said about it.
  Result<bool> receiveTree() {
    DH_TRY(const Frame frame, receive());
    if (frame.type != static_cast<uint8_t>(Message::kTree)) return unexpected(frame);
    Reader reader(frame.payload);
    DH_TRY(const uint8_t flags, reader.u8());
    if ((flags & ~kTreeComplete) != 0) return Error{Code::kUnsupported, "a flag of the sender's tree", 0};
    complete_ = (flags & kTreeComplete) != 0;
    DH_TRY(announcedEntries_, reader.varint(kMaxTreeEntries));
    DH_TRY(filesTotal_, reader.varint(kMaxTreeEntries));
    DH_TRY(bytesTotal_, reader.varint());
    DH_TRY(const ByteSpan digest, reader.take(sizeof(Digest)));
    DH_CHECK(reader.expectEnd());
    std::copy(digest.begin(), digest.end(), announcedDigest_.begin());
    if (!complete_ || announcedEntries_ != own_.size()) return false;
    return manifestDigest(own_) == announcedDigest_;
  }

  Status receiveManifest() {
    const Stopwatch watch;
    ManifestDecoder decoder;
    for (;;) {
      DH_TRY(const Frame frame, receive());
      if (frame.type == static_cast<uint8_t>(Message::kManifestEnd)) break;
      if (frame.type != static_cast<uint8_t>(Message::kManifest)) return unexpected(frame);
      Reader reader(frame.payload);
      DH_TRY(const ByteSpan piece, unpacker_.unpack(reader));
      DH_CHECK(decoder.feed(piece));
    }
    DH_TRY(wanted_, decoder.finish(announcedEntries_));
    if (wanted_.totalFiles() != filesTotal_ || wanted_.totalBytes() != bytesTotal_) {
      return Error{Code::kCorrupt, "manifest: not what was announced", 0};
    }
    // Names and metadata come under no file's digest; here they are held to the announced one.
    const Digest digest = manifestDigest(wanted_);
    if (digest != announcedDigest_) return Error{Code::kMismatch, "manifest", 0};
    if (options_.entryName.has_value()) {
      // What was not asked for must not come, least of all beside what was.
      if (wanted_.size() > 2 || (wanted_.size() == 2 && wanted_.isDirectory(1))) {
        return Error{Code::kProtocol, "the sender has more than the one entry that was asked for", 0};
      }
      if (wanted_.size() == 2) DH_CHECK(wanted_.rename(1, *options_.entryName));
    }
    plan_ = planTree(own_, wanted_, verify_);
    missing_.assign(wanted_.size(), false);
    statistics_["manifestMs"] = watch.ms();
    return {};
  }

  void keepWhatIsNotToGo() {
    if (!options_.deleteOthers || options_.entryName.has_value()) plan_.deletes.clear();
    if (!complete_ && !plan_.deletes.empty()) {
      notes().add("nothing was deleted: the sender could not read its whole tree");
      plan_.deletes.clear();
    }
    if (options_.deleteOthers) return;
    for (uint32_t index = 1; index < wanted_.size(); ++index) {
      const uint32_t partner = plan_.partners[index];
      if (partner == kNoEntry || !own_.isDirectory(partner) || wanted_.isDirectory(index)) continue;
      if (own_.subtreeEnd(partner) == partner + 1) continue;
      plan_.actions[index] = Action::kSettled;
      missing_[index] = true;
      notes().add(wanted_.path(index) + ": not made, a directory that is not empty is in its place");
    }
  }

  std::string itemizeChanges() {
    const RootItem root = options_.entryName.has_value() ? RootItem::kApart
                          : rootIsNew_                   ? RootItem::kMade
                                                         : RootItem::kAsItIs;
    ItemList items = itemize(own_, wanted_, plan_, missing_, ::geteuid() == 0, root);
    if (items.omitted > 0) notes().add(std::to_string(items.omitted) + " more changes are not listed");
    return std::move(items.text);
  }

  // --- Making the tree

  Status apply() {
    wantedParents_.emplace(root_, wanted_);
    touched_.assign(wanted_.size(), false);
    {
      const Stopwatch watch;
      DH_CHECK(prepareDirectories());
      std::vector<uint32_t> files;
      for (uint32_t index = 0; index < wanted_.size(); ++index) {
        if (!wanted_.isRegular(index) || wanted_.isFollower(index) || missing_[index]) continue;
        if (plan_.actions[index] != Action::kContent) {
          ++filesSettled_;
          doneBytes_ += wanted_.fileBytes(index);
        } else {
          files.push_back(index);
        }
      }
      doneFiles_ = filesSettled_;
      advance();
      DH_CHECK(exchange(std::move(files), true));
      if (!repairs_.empty()) {
        repairedFiles_ = repairs_.size();
        std::sort(repairs_.begin(), repairs_.end());
        repairing_ = true;
        DH_CHECK(exchange(std::exchange(repairs_, {}), false));
      }
      DH_CHECK(commitGroup());
      statistics_["filesMs"] = watch.ms();
    }
    const Stopwatch watch;
    DH_CHECK(finishEntries());
    DH_CHECK(deleteOthers());
    DH_CHECK(partial_.removeAll());
    DH_CHECK(finishDirectories());
    if (options_.durable && ::syncfs(root_.fd()) != 0) return systemError(errno, "sync the tree");
    statistics_["finishMs"] = watch.ms();
    return {};
  }

  // Directories first, so that every file finds its own; their metadata comes last.
  Status prepareDirectories() {
    const bool asRoot = ::geteuid() == 0;
    for (uint32_t index = 0; index < wanted_.size(); ++index) {
      if (!wanted_.isDirectory(index)) continue;
      const std::string name(wanted_.name(index));
      const uint32_t partner = plan_.partners[index];
      if (plan_.actions[index] != Action::kMake) {
        if (asRoot || (own_.mode(partner) & 0700) == 0700) continue;
        // Without root an own directory may have to be opened for us first.
        if (index > 0) DH_CHECK(makeAccessible(index, name));
        touched_[index] = true;
        continue;
      }
      DH_TRY(const Directory* parent, wantedParents_->parentOf(index));
      if (partner != kNoEntry) DH_CHECK(parent->unlink(name));
      Status made = parent->makeDirectory(name, 0700);
      if (!made.ok() && made.error().sysErrno == EEXIST) {
        // Something that no scan shows, a socket.
        if (options_.deleteOthers) {
          DH_CHECK(parent->removeTree(name));
        } else {
          DH_CHECK(parent->unlink(name));
        }
        made = parent->makeDirectory(name, 0700);
      }
      if (!made.ok()) return withPath(made.error(), wanted_.path(index));
      touched_[index] = touched_[wanted_.entry(index).parent] = true;
    }
    return {};
  }

  Status makeAccessible(uint32_t index, const std::string& name) {
    DH_TRY(const Directory* parent, wantedParents_->parentOf(index));
    const int handle = ::openat(parent->fd(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (handle < 0) return systemError(errno, "open " + wanted_.path(index));
    const File owner(handle);
    if (::chmod(("/proc/self/fd/" + std::to_string(handle)).c_str(), 0700) != 0) {
      return systemError(errno, "change mode of " + wanted_.path(index));
    }
    return {};
  }

  // Requests files on a thread of its own and applies the answers on this one: whoever applies never waits for the peer
  // to read, so the peer never waits for us for ever.
  Status exchange(std::vector<uint32_t> files, bool withBasis) {
    Status requested;
    std::atomic<bool> stopRequests{false};
    std::thread requester([&] {
      try {
        requested = request(files, withBasis, stopRequests);
      } catch (const std::bad_alloc&) {
        requested = Error{Code::kLimit, "out of memory", 0};
      }
      // The applying thread waits for an answer that will not come.
      if (!requested.ok() && !stopRequests.load()) requesterFailed_.store(true);
    });
    struct Joiner {
      ReceiveJob& job;
      std::thread& thread;
      std::atomic<bool>& stop;
      bool finished = false;
      ~Joiner() {
        if (!finished) {
          stop.store(true);
          job.stopWaiting();
        }
        thread.join();
      }
    };
    Status applied;
    {
      Joiner joiner{*this, requester, stopRequests};
      applied = applyAnswers();
      joiner.finished = applied.ok();
    }
    if (!requested.ok() && requested.error().code != Code::kCancelled) return requested;
    if (!applied.ok()) return applied;
    return requested;
  }

  // --- The requesting thread

  Status request(const std::vector<uint32_t>& files, bool withBasis, const std::atomic<bool>& stopRequests) {
    MessageWriter out([this](Bytes buffer) { return write(std::move(buffer)); }, kRequestGatherBytes);
    const Status requested = requestAll(out, files, withBasis, stopRequests);
    requesterSentBytes_ += out.sentBytes();
    if (requested.ok() || stopRequests.load() || requested.error().code == Code::kCancelled) return requested;
    // An own file that cannot be read: tell the peer, whose answer ends the applying thread's wait.
    Bytes buffer;
    DH_CHECK(writeFrame(buffer, static_cast<uint8_t>(Message::kRequestsEnd), {}));
    DH_CHECK(write(std::move(buffer)));
    return requested;
  }

  Status requestAll(MessageWriter& out, const std::vector<uint32_t>& files, bool withBasis,
                    const std::atomic<bool>& stopRequests) {
    ParentCache parents(root_, wanted_);
    std::vector<uint32_t> whole;
    const auto flushWhole = [&]() -> Status {
      if (whole.empty()) return {};
      Bytes payload;
      Writer writer(payload);
      uint32_t next = 0;
      for (const uint32_t index : whole) {
        writer.varint(index - next);
        next = index + 1;
      }
      whole.clear();
      return out.send(Message::kRequest, payload);
    };
    for (const uint32_t index : files) {
      if (stopRequests.load(std::memory_order_relaxed) || cancelled()) return Error{Code::kCancelled, "request", 0};
      Asked asked;
      Basis basis;
      if (withBasis && wanted_.fileBytes(index) > kAlwaysWholeBytes) {
        DH_TRY(basis, findBasis(parents, index, asked));
      }
      {
        const std::lock_guard lock(askedMutex_);
        asked_.emplace(index, std::move(asked));
      }
      if (basis.size() == 0) {
        whole.push_back(index);
        if (whole.size() >= kMaxIndexesPerRequest) DH_CHECK(flushWhole());
        continue;
      }
      DH_CHECK(flushWhole());
      const Status sent = sendSignature(out, index, basis, stopRequests);
      if (!sent.ok()) return withPath(sent.error(), wanted_.path(index));
    }
    DH_CHECK(flushWhole());
    DH_CHECK(out.send(Message::kRequestsEnd, {}));
    return out.flush();
  }

  Status sendSignature(MessageWriter& out, uint32_t index, const Basis& basis, const std::atomic<bool>& stopRequests) {
    SignatureBuilder builder(basis, key_, false);
    DH_TRY(Bytes piece, builder.next());
    for (bool last = false; !last;) {
      if (stopRequests.load(std::memory_order_relaxed)) return Error{Code::kCancelled, "request", 0};
      DH_TRY(Bytes following, builder.next());
      last = following.empty();
      Bytes payload;
      Writer writer(payload);
      writer.varint(index);
      writer.u8(last ? kSignatureLast : 0);
      writer.raw(piece);
      signatureBytes_ += payload.size();
      DH_CHECK(out.send(Message::kSignature, payload));
      piece = std::move(following);
    }
    basisReadBytes_ += builder.readBytes();
    return {};
  }

  Result<Basis> findBasis(ParentCache& parents, uint32_t index, Asked& asked) {
    const uint32_t partner = plan_.partners[index];
    asked.live = partner != kNoEntry && own_.isRegular(partner) && own_.fileBytes(partner) > 0;
    {
      const std::lock_guard lock(partialMutex_);
      asked.leftOvers = partial_.leftOvers(wanted_.path(index));
    }
    std::vector<File> files;
    uint64_t bytes = 0;
    DH_CHECK(openBasis(parents, index, asked, files, bytes));
    if (files.empty()) return Basis();
    asked.blockBytes = chooseBlockBytes(bytes);
    return Basis::make(std::move(files), asked.blockBytes);
  }

  // Leaves out, in `asked` too, what cannot be opened: a basis is only a help.
  Status openBasis(ParentCache& parents, uint32_t index, Asked& asked, std::vector<File>& files, uint64_t& bytes) {
    const auto take = [&](Result<File> file) {
      if (!file.ok()) return false;
      const auto size = file.value().size();
      if (!size.ok()) return false;
      bytes += size.value();
      files.push_back(std::move(file).value());
      return true;
    };
    if (asked.live) {
      DH_TRY(const Directory* parent, parents.parentOf(index));
      asked.live = take(parent->openRegular(std::string(wanted_.name(index))));
    }
    const std::lock_guard lock(partialMutex_);
    std::erase_if(asked.leftOvers, [&](const std::string& name) { return !take(partial_.read(name)); });
    return {};
  }

  // --- The applying thread

  Status applyAnswers() {
    for (;;) {
      DH_TRY(const Frame frame, receive());
      switch (static_cast<Message>(frame.type)) {
        case Message::kDelta:
          DH_CHECK(onDelta(frame.payload));
          break;
        case Message::kFileEnd:
          DH_CHECK(onFileEnd(frame.payload));
          break;
        case Message::kSmallFiles:
          DH_CHECK(onSmallFiles(frame.payload));
          break;
        case Message::kGone:
          DH_CHECK(onGone(frame.payload));
          break;
        case Message::kAnswersEnd: {
          if (!frame.payload.empty() || incoming_ != nullptr) return unexpected(frame);
          const std::lock_guard lock(askedMutex_);
          if (!asked_.empty() && !requesterFailed_.load()) {
            return Error{Code::kProtocol, "requests without an answer", 0};
          }
          return {};
        }
        default:
          return unexpected(frame);
      }
    }
  }

  // Every answer must be to a request, and the only one to it.
  Result<Asked> takeAsked(uint64_t number) {
    const std::lock_guard lock(askedMutex_);
    const auto at = number < wanted_.size() ? asked_.find(static_cast<uint32_t>(number)) : asked_.end();
    if (at == asked_.end()) return Error{Code::kProtocol, "an answer to no request", 0};
    Asked asked = std::move(at->second);
    asked_.erase(at);
    return asked;
  }

  Result<File> createPartial(uint32_t index, std::string& name) {
    const std::string path = wanted_.path(index);
    const std::lock_guard lock(partialMutex_);
    auto file = partial_.create(path, name);
    if (!file.ok()) return withPath(file.error(), path);
    return file;
  }

  void removePartial(const std::string& name) {
    const std::lock_guard lock(partialMutex_);
    partial_.remove(name);
  }

  Status begin(uint64_t number) {
    DH_TRY(Asked asked, takeAsked(number));
    auto incoming = std::make_unique<Incoming>();
    incoming->index = static_cast<uint32_t>(number);
    std::vector<File> files;
    uint64_t bytes = 0;
    DH_CHECK(openBasis(*wantedParents_, incoming->index, asked, files, bytes));
    DH_TRY(incoming->basis, Basis::make(std::move(files), asked.blockBytes));
    DH_TRY(incoming->file, createPartial(incoming->index, incoming->name));
    incoming->output.emplace(incoming->file);
    incoming->patcher.emplace(incoming->basis, *incoming->output);
    incoming_ = std::move(incoming);
    return {};
  }

  Status onDelta(ByteSpan payload) {
    Reader reader(payload);
    DH_TRY(const uint64_t number, reader.varint());
    DH_TRY(const ByteSpan block, reader.take(reader.remaining()));
    if (incoming_ == nullptr) DH_CHECK(begin(number));
    if (incoming_->index != number) return Error{Code::kProtocol, "a file inside another", 0};
    if (incoming_->basisChanged) return {};
    const uint64_t before = incoming_->patcher->doneBytes();
    const Status applied = incoming_->patcher->apply(block);
    doneBytes_ += incoming_->patcher->doneBytes() - before;
    advance();
    if (applied.ok()) return {};
    if (applied.error().code == Code::kChanged) {
      incoming_->basisChanged = true;
      return {};
    }
    return failIncoming(applied.error());
  }

  Status onFileEnd(ByteSpan payload) {
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
      removePartial(incoming->name);
      if (repairing_) return Error{Code::kMismatch, wanted_.path(incoming->index), 0};
      notes().add(wanted_.path(incoming->index) + ": did not match its digest, requested again");
      repairs_.push_back(incoming->index);
      return {};
    }
    return finishFile(incoming->index, incoming->file, incoming->name, flags, size);
  }

  Status failIncoming(const Error& error) {
    const std::unique_ptr<Incoming> incoming = std::move(incoming_);
    // A full disk is not kept full; anything else may help the next transfer.
    if (error.code == Code::kNoSpace) removePartial(incoming->name);
    return withPath(error, wanted_.path(incoming->index));
  }

  Status onSmallFiles(ByteSpan payload) {
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
      DH_CHECK(takeAsked(number));
      const auto index = static_cast<uint32_t>(number);
      std::string name;
      DH_TRY(File file, createPartial(index, name));
      FileOutput output(file);
      Status written = output.write(content);
      if (written.ok()) written = output.finish(content.size());
      if (!written.ok()) {
        removePartial(name);
        return withPath(written.error(), wanted_.path(index));
      }
      literalBytes_ += content.size();
      doneBytes_ += content.size();
      DH_CHECK(finishFile(index, file, name, flags, content.size()));
    }
    return {};
  }

  Status onGone(ByteSpan payload) {
    Reader reader(payload);
    DH_TRY(const uint64_t number, reader.varint());
    DH_CHECK(reader.expectEnd());
    if (incoming_ != nullptr) {
      if (incoming_->index != number) return Error{Code::kProtocol, "a file inside another", 0};
      incoming_.reset();  // what arrived stays, as a basis for the next time
    } else {
      DH_CHECK(takeAsked(number));
    }
    const auto index = static_cast<uint32_t>(number);
    missing_[index] = true;
    ++goneFiles_;
    notes().add(wanted_.path(index) + ": vanished at the sender");
    return {};
  }

  Status finishFile(uint32_t index, File& file, const std::string& name, uint8_t flags, uint64_t size) {
    Metadata metadata = metadataOf(wanted_, index);
    // A file of two times must never look like the sender's: the next round has to look at it again.
    if (flags & kFileChanged) metadata.mtimeSeconds -= 1;
    const std::string path = wanted_.path(index);
    const Status applied = applyMetadata(file.fd(), metadata, path, notes());
    if (!applied.ok()) return applied;
    ++filesReceived_;
    ++doneFiles_;
    advance();
    if (!options_.durable) return commit(Finished{index, name});
    group_.push_back(Finished{index, name});
    groupBytes_ += size;
    return group_.size() >= kGroupFiles || groupBytes_ >= kGroupBytes ? commitGroup() : Status();
  }

  // All temporaries on stable storage, then the renames: a crash leaves each path old or new, never half.
  Status commitGroup() {
    if (group_.empty()) return {};
    if (group_.size() > kSyncEachFiles) {
      if (::syncfs(partial_.directory().fd()) != 0) return systemError(errno, "sync files");
    } else {
      for (const Finished& finished : group_) {
        DH_TRY(File file, partial_.directory().open(finished.name, O_RDONLY));
        DH_CHECK(file.sync());
      }
    }
    groupBytes_ = 0;
    for (const Finished& finished : std::exchange(group_, {})) DH_CHECK(commit(finished));
    return {};
  }

  Status commit(const Finished& finished) {
    DH_CHECK(renameInto(finished.index, finished.name));
    const std::lock_guard lock(partialMutex_);
    partial_.removeLeftOvers(wanted_.path(finished.index));
    return {};
  }

  Status renameInto(uint32_t index, const std::string& name) {
    DH_TRY(const Directory* parent, wantedParents_->parentOf(index));
    const std::string toName(wanted_.name(index));
    Status renamed = partial_.directory().rename(name, *parent, toName);
    if (!renamed.ok() && renamed.error().sysErrno == EISDIR) {
      if (options_.deleteOthers) {
        DH_CHECK(parent->removeTree(toName));
      } else {
        DH_CHECK(parent->removeDirectory(toName));
      }
      renamed = partial_.directory().rename(name, *parent, toName);
    }
    if (!renamed.ok()) return withPath(renamed.error(), wanted_.path(index));
    touched_[wanted_.entry(index).parent] = true;
    return {};
  }

  // The transfer failed: what is finished takes its place all the same, so that the next one need not ask for it.
  void keepFinished(const Error& error) {
    incoming_.reset();
    if (error.code == Code::kNoSpace || group_.empty()) return;
    const Status kept = commitGroup();
    if (!kept.ok()) group_.clear();  // they stay as left-overs
  }

  // --- Everything that is no content

  Status finishEntries() {
    ParentCache leaders(root_, wanted_);
    for (uint32_t index = 1; index < wanted_.size(); ++index) {
      if (cancelled()) return Error{Code::kCancelled, "finish", 0};
      if (wanted_.isDirectory(index)) continue;
      const std::string name(wanted_.name(index));
      switch (plan_.actions[index]) {
        case Action::kMetadata: {
          DH_TRY(const Directory* parent, wantedParents_->parentOf(index));
          auto file = parent->openRegular(name);
          if (!file.ok()) return withPath(file.error(), wanted_.path(index));
          DH_CHECK(applyMetadata(file.value().fd(), metadataOf(wanted_, index), wanted_.path(index), notes()));
          break;
        }
        case Action::kMake:
          DH_CHECK(makeEntry(index));
          break;
        case Action::kLink: {
          const uint32_t leader = wanted_.entry(index).leader;
          if (missing_[leader]) {
            missing_[index] = true;
            break;
          }
          DH_TRY(const Directory* from, leaders.parentOf(leader));
          DH_TRY(const std::string temporary, partial_.freeName());
          const Status linked = from->link(std::string(wanted_.name(leader)), partial_.directory(), temporary);
          if (!linked.ok()) return withPath(linked.error(), wanted_.path(index));
          DH_CHECK(renameInto(index, temporary));
          // Two names of one inode: then rename does nothing.
          partial_.remove(temporary);
          break;
        }
        case Action::kSettled:
        case Action::kContent:
          break;
      }
    }
    return {};
  }

  Status makeEntry(uint32_t index) {
    const std::string path = wanted_.path(index);
    DH_TRY(const std::string temporary, partial_.freeName());
    const Directory& directory = partial_.directory();
    const Metadata metadata = metadataOf(wanted_, index);
    Status made;
    if (wanted_.isSymlink(index)) {
      made = directory.makeSymlink(wanted_.target(index), temporary);
    } else {
      made = directory.makeNode(temporary, metadata.mode & (S_IFMT | 0700),
                                wanted_.isDevice(index) ? static_cast<dev_t>(wanted_.entry(index).value) : 0);
    }
    if (!made.ok()) {
      if (made.error().sysErrno != EPERM) return withPath(made.error(), path);
      notes().add(path + ": device could not be made");
      missing_[index] = true;
      return {};
    }
    const Status applied = applyMetadataToNode(directory, temporary, metadata, path, notes());
    if (!applied.ok()) return withPath(applied.error(), path);
    return renameInto(index, temporary);
  }

  // Only what our own scan found, and only if the sender saw its whole tree.
  Status deleteOthers() {
    if (plan_.deletes.empty()) return {};
    std::vector<uint32_t> wantedOf(own_.size(), kNoEntry);
    for (uint32_t index = 0; index < wanted_.size(); ++index) {
      if (plan_.partners[index] != kNoEntry) wantedOf[plan_.partners[index]] = index;
    }
    ParentCache parents(root_, own_);
    for (const uint32_t index : plan_.deletes) {
      if (cancelled()) return Error{Code::kCancelled, "delete", 0};
      DH_TRY(const Directory* parent, parents.parentOf(index));
      auto removed = parent->removeTree(std::string(own_.name(index)));
      if (!removed.ok()) return withPath(removed.error(), own_.path(index));
      deletedEntries_ += removed.value();
      touched_[wantedOf[own_.entry(index).parent]] = true;
    }
    return {};
  }

  // Deepest first, and after everything else: what is made in a directory changes its mtime.
  Status finishDirectories() {
    wantedParents_->forget();
    for (uint32_t index = wanted_.size(); index-- > 0;) {
      if (!wanted_.isDirectory(index)) continue;
      if (!touched_[index] && plan_.actions[index] == Action::kSettled && index != 0) continue;
      if (index == 0 && options_.entryName.has_value()) continue;  // not ours to change
      DH_TRY(const Directory directory, root_.openBeneath(wanted_.path(index)));
      DH_CHECK(applyMetadata(directory.fd(), metadataOf(wanted_, index), wanted_.path(index), notes()));
    }
    return {};
  }

  Result<std::string> digestOfResult() {
    const CancelCheck check = [this] { return cancelled(); };
    Notes ownNotes;
    DH_TRY(ScanResult scanned, scanTree(root_, {}, ownNotes, check));
    DH_CHECK(addContentDigests(root_, scanned.tree, {}, check));
    return digestText(manifestDigest(scanned.tree));
  }

  void advance(bool force = false) {
    progress(Progress{std::min(doneBytes_, bytesTotal_), bytesTotal_, std::min(doneFiles_, filesTotal_), filesTotal_},
             force);
  }

  JobReport finishReport(std::string text) {
    const std::pair<const char*, uint64_t> counts[] = {
        {"filesTotal", filesTotal_},
        {"totalBytes", bytesTotal_},
        {"filesSettled", filesSettled_},
        {"filesReceived", filesReceived_},
        {"readBytes", basisReadBytes_},
        {"literalBytes", literalBytes_},
        {"matchedBytes", matchedBytes_},
        {"zeroBytes", zeroBytes_},
        {"signatureBytes", signatureBytes_},
        {"sentBytes", sentBytes_},
        {"receivedBytes", receivedBytes()},
        {"repairedFiles", repairedFiles_},
        {"deletedEntries", deletedEntries_},
        {"goneFiles", goneFiles_},
        {"missedEntries", static_cast<uint64_t>(std::count(missing_.begin(), missing_.end(), true))},
        {"incompleteSource", complete_ ? 0 : 1},
    };
    for (const auto& [name, value] : counts) statistics_[name] = static_cast<double>(value);
    return report(statistics_, std::move(text));
  }

  const ReceiveJobOptions options_;
  Key key_{};
  bool verify_ = false;
  bool complete_ = false;
  bool rootIsNew_ = false;
  uint64_t announcedEntries_ = 0;
  Digest announcedDigest_{};
  uint64_t filesTotal_ = 0;
  uint64_t bytesTotal_ = 0;
  Unpacker unpacker_;
  Directory root_;
  Tree own_;
  Tree wanted_;
  TreePlan plan_;
  std::optional<ParentCache> wantedParents_;  // of the applying thread
  std::vector<bool> touched_;                 // directories in which something was made or removed
  std::vector<bool> missing_;                 // entries that could not be had
  std::mutex partialMutex_;
  PartialDirectory partial_;
  std::mutex askedMutex_;
  std::unordered_map<uint32_t, Asked> asked_;
  std::atomic<bool> requesterFailed_{false};
  std::unique_ptr<Incoming> incoming_;
  std::vector<uint32_t> repairs_;
  bool repairing_ = false;
  std::vector<Finished> group_;
  uint64_t groupBytes_ = 0;

  Statistics statistics_;
  uint64_t doneBytes_ = 0;
  uint64_t doneFiles_ = 0;
  uint64_t filesSettled_ = 0;
  uint64_t filesReceived_ = 0;
  uint64_t literalBytes_ = 0;
  uint64_t matchedBytes_ = 0;
  uint64_t zeroBytes_ = 0;
  uint64_t repairedFiles_ = 0;
  uint64_t deletedEntries_ = 0;
  uint64_t goneFiles_ = 0;
  uint64_t sentBytes_ = 0;
  // Written by the requesting thread, read after it has ended.
  uint64_t requesterSentBytes_ = 0;
  uint64_t signatureBytes_ = 0;
  uint64_t basisReadBytes_ = 0;
};

}  // namespace

std::unique_ptr<Job> makeReceiveJob(ReceiveJobOptions options) {
  return std::make_unique<ReceiveJob>(std::move(options));
}

}  // namespace deltahop
