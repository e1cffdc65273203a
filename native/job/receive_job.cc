#include "job/receive_job.h"

#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <functional>
#include <new>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/hex.h"
#include "io/page_file.h"
#include "job/file_receiver.h"
#include "job/file_requester.h"
#include "job/page_requests.h"
#include "job/request_book.h"
#include "job/shared_basis.h"
#include "job/transfer_job.h"
#include "job/tree_in_making.h"
#include "job/tree_maker.h"
#include "match/page_matcher.h"
#include "signature/signature.h"
#include "tree/itemize.h"
#include "tree/manifest.h"
#include "tree/record.h"
#include "tree/unfinished_patch.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr size_t kRequestGatherBytes = 16 << 10;
constexpr std::chrono::milliseconds kLockPause{20};

// What a record says is of whole trees that lie here.
ReceiveJobOptions withoutUnfitRecord(ReceiveJobOptions options) {
  if (options.entryName.has_value() || options.dryRun) options.recordPath.reset();
  return options;
}

class ReceiveJob final : public TransferJob {
 public:
  explicit ReceiveJob(ReceiveJobOptions options)
      : options_(withoutUnfitRecord(std::move(options))),
        files_(options_, tree_, book_, notes(), [this](uint64_t doneBytes, uint64_t doneFiles) {
          doneBytes_ = doneBytes;
          doneFiles_ = doneFiles;
          advance();
        }) {}
  ~ReceiveJob() override { stop(); }

 protected:
  Result<JobReport> transfer() override {
    // This thread applies what arrives, so it never waits for the peer to read.
    MessageWriter out([this](Bytes buffer) { return writeNow(std::move(buffer)); }, 0);
    DH_CHECK(sendHello(out));
    DH_CHECK(openTarget());
    DH_CHECK(receiveHello());
    TreeLock lock;
    if (!options_.dryRun) {
      DH_CHECK(lockTree(lock));
      DH_TRY(finishedPatches_, finishPatches(tree_.root, notes()));
    }
    DH_CHECK(readOwnTree());
    DH_CHECK(receiveTree());
    const bool settled = isSettled();
    std::string text;
    if (settled) {
      filesSettled_ = tree_.own.totalFiles();
      DH_CHECK(out.send(Message::kSettled, {}));
      if (announcedBasis_.has_value()) DH_CHECK(skipShared());
      if (!options_.dryRun) {
        DH_TRY(tree_.partial, PartialDirectory::open(tree_.root));
        if (tree_.partial.directory().isOpen()) {
          DH_CHECK(tree_.partial.removeAll());
          if (!options_.entryName.has_value())
            DH_CHECK(applyMetadata(tree_.root.fd(), metadataOf(tree_.own, 0), ".", notes()));
        }
      }
    } else {
      DH_CHECK(agreeOnManifest(out));
      if (options_.itemize) text = itemizeChanges();
    }
    if (!settled && !options_.dryRun) {
      DH_TRY(tree_.partial, PartialDirectory::open(tree_.root));
      const Status applied = apply();
      sentBytes_ += requesterSentBytes_;
      if (!applied.ok()) {
        files_.keepFinished(applied.error());
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
    if (options_.recordPath.has_value()) keepRecord(settled);
    sentBytes_ += out.sentBytes();
    advance(true);
    return finishReport(std::move(text));
  }

 private:
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
      tree_.root = std::move(opened).value();
      return {};
    }
    if (opened.error().code != Code::kNotFound) return opened.error();
    rootIsNew_ = true;
    if (options_.dryRun) return {};
    // A directory that is not the tree's own root gets what the user's umask leaves; the root gets the sender's mode.
    const mode_t mode = options_.entryName.has_value() ? 0777 : 0700;
    DH_TRY(const Directory above, Directory::openOrMakeRoot(options_.rootPath, options_.beneath.empty() ? mode : 0777));
    DH_TRY(tree_.root, above.openOrMakeBeneath(options_.beneath, mode));
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
    version_ = std::min(newest, kTransferVersion);
    files_.speak(version_);
    DH_TRY(const uint8_t flags, reader.u8());
    if ((flags & ~kHelloVerify) != 0) return Error{Code::kUnsupported, "a flag of the sender's hello", 0};
    verify_ = (flags & kHelloVerify) != 0;
    return reader.expectEnd();
  }

  // Until the transfer is over: the job itself may live on.
  struct TreeLock {
    int fd = -1;
    ~TreeLock() {
      if (fd >= 0) ::flock(fd, LOCK_UN);
    }
  };

  // One receiver at a time: an earlier one may not have noticed yet that its sender is gone, and what it still puts in
  // place, or removes, must not be ours.
  Status lockTree(TreeLock& lock) {
    while (::flock(tree_.root.fd(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) return {};  // a file system without locks
      if (cancelled()) return Error{Code::kCancelled, "wait for another receiver", 0};
      std::this_thread::sleep_for(kLockPause);
    }
    lock.fd = tree_.root.fd();
    return {};
  }

  // While the sender does the same with its own.
  Status readOwnTree() {
    const CancelCheck check = [this] { return cancelled(); };
    const Stopwatch scanWatch;
    if (!tree_.root.isOpen()) return {};  // a dry run to where nothing is yet
    Notes ownNotes;                       // a socket of our own is deleted, not reported
    DH_TRY(ScanResult scanned,
           scanTree(tree_.root, {{}, options_.entryName, options_.recordPath.has_value()}, ownNotes, check));
    tree_.own = std::move(scanned.tree);
    if (options_.recordPath.has_value()) {
      auto record = readRecord(*options_.recordPath);
      if (record.has_value()) {
        addRecordedDigests(*record, tree_.own, scanned.stamps);
        // What else may have been touched since, a directory's mtime, is no part of what answers are against.
        if (hasAllDigests(tree_.own) && record->tree.totalFiles() == tree_.own.totalFiles()) {
          recorded_ = std::move(record->tree);
        }
      }
    }
    statistics_["scanMs"] = scanWatch.ms();
    if (verify_) {
      const Stopwatch watch;
      DH_CHECK(addContentDigests(tree_.root, tree_.own, {false, true, countHashed(hashedBytes_)}, check));
      statistics_["digestMs"] = watch.ms();
    }
    return {};
  }

  Status receiveTree() {
    DH_TRY(const Frame frame, receive());
    if (frame.type != static_cast<uint8_t>(Message::kTree)) return unexpected(frame);
    Reader reader(frame.payload);
    DH_TRY(const uint8_t flags, reader.u8());
    const uint8_t known = kTreeComplete | kTreeShared | (version_ >= kCommonFilesVersion ? kTreeCommon : 0);
    if ((flags & ~known) != 0) {
      return Error{Code::kUnsupported, "a flag of the sender's tree", 0};
    }
    complete_ = (flags & kTreeComplete) != 0;
    DH_TRY(announcedEntries_, reader.varint(kMaxTreeEntries));
    DH_TRY(filesTotal_, reader.varint(kMaxTreeEntries));
    DH_TRY(bytesTotal_, reader.varint());
    DH_TRY(const ByteSpan digest, reader.take(sizeof(Digest)));
    std::copy(digest.begin(), digest.end(), announcedDigest_.begin());
    if ((flags & kTreeShared) != 0) {
      DH_TRY(const ByteSpan basis, reader.take(sizeof(Digest)));
      announcedBasis_.emplace();
      std::copy(basis.begin(), basis.end(), announcedBasis_->begin());
    }
    if ((flags & kTreeCommon) != 0) {
      DH_TRY(announcedCommon_, readCommonFiles(reader));
    }
    return reader.expectEnd();
  }

  // True if the sender's tree is our own, so that nothing has to be said about it.
  bool isSettled() const {
    return complete_ && announcedEntries_ == tree_.own.size() && manifestDigest(tree_.own, verify_) == announcedDigest_;
  }

  // The sender's manifest, and whether its answers are against what lies here.
  Status agreeOnManifest(MessageWriter& out) {
    if (announcedBasis_.has_value()) {
      // An own tree that is not known whole has no name.
      const bool may = !options_.dryRun && !options_.entryName.has_value() && hasAllDigests(tree_.own);
      if (may) ownManifest_.emplace(recorded_.has_value() ? *recorded_ : tree_.own);
      if (may && ownManifest_->digest() == *announcedBasis_) {
        DH_CHECK(receiveManifest());
        keepWhatIsNotToGo();
        sharedBasis_ = std::count(tree_.missing.begin(), tree_.missing.end(), true) == 0;
      }
      ownManifest_.reset();
      if (sharedBasis_) return out.send(Message::kBasisHeld, {});
      basisRefused_ = true;
    }
    DH_CHECK(out.send(Message::kManifestWanted, {}));
    if (announcedBasis_.has_value()) DH_CHECK(skipShared());
    DH_CHECK(receiveManifest());
    keepWhatIsNotToGo();
    return {};
  }

  // What was sent against a basis that is not here, or not needed.
  Status skipShared() {
    for (;;) {
      DH_TRY(const Frame frame, receive());
      if (frame.type == static_cast<uint8_t>(Message::kSharedEnd)) return {};
      if (isReceivers(frame.type)) return unexpected(frame);
    }
  }

  Status receiveManifest() {
    const Stopwatch watch;
    ManifestDecoder decoder;
    for (;;) {
      DH_TRY(const Frame frame, receive());
      if (frame.type == static_cast<uint8_t>(Message::kManifestEnd)) break;
      const bool shared = ownManifest_.has_value();
      const Message expected = shared ? Message::kSharedManifest : Message::kManifest;
      if (frame.type != static_cast<uint8_t>(expected)) return unexpected(frame);
      Reader reader(frame.payload);
      DH_TRY(const ByteSpan piece, shared ? ownManifest_->decode(reader) : unpacker_.unpack(reader));
      DH_CHECK(decoder.feed(piece));
    }
    DH_TRY(tree_.wanted, decoder.finish(announcedEntries_));
    if (tree_.wanted.totalFiles() != filesTotal_ || tree_.wanted.totalBytes() != bytesTotal_) {
      return Error{Code::kCorrupt, "manifest: not what was announced", 0};
    }
    // Names and metadata come under no file's digest; here they are held to the announced one.
    const Digest digest = manifestDigest(tree_.wanted);
    if (digest != announcedDigest_) return Error{Code::kMismatch, "manifest", 0};
    if (options_.entryName.has_value()) {
      // What was not asked for must not come, least of all beside what was.
      if (tree_.wanted.size() > 2 || (tree_.wanted.size() == 2 && tree_.wanted.isDirectory(1))) {
        return Error{Code::kProtocol, "the sender has more than the one entry that was asked for", 0};
      }
      if (tree_.wanted.size() == 2) DH_CHECK(tree_.wanted.renameLast(*options_.entryName));
    }
    tree_.plan = planTree(tree_.own, tree_.wanted, verify_);
    tree_.missing.assign(tree_.wanted.size(), false);
    statistics_["manifestMs"] = watch.ms();
    return {};
  }

  void keepWhatIsNotToGo() {
    if (!options_.deleteOthers || options_.entryName.has_value()) tree_.plan.deletes.clear();
    if (!complete_ && !tree_.plan.deletes.empty()) {
      notes().add("nothing was deleted: the sender could not read its whole tree");
      tree_.plan.deletes.clear();
    }
    refuseManyDeletes();
    if (options_.deleteOthers) return;
    for (uint32_t index = 1; index < tree_.wanted.size(); ++index) {
      const uint32_t partner = tree_.plan.partners[index];
      if (partner == kNoEntry || !tree_.own.isDirectory(partner) || tree_.wanted.isDirectory(index)) continue;
      if (tree_.own.subtreeEnd(partner) == partner + 1) continue;
      tree_.plan.actions[index] = Action::kSettled;
      tree_.missing[index] = true;
      notes().add(tree_.wanted.path(index) + ": not made, a directory that is not empty is in its place");
    }
  }

  // All or none: half of a deletion is no use to whoever wants to look first.
  void refuseManyDeletes() {
    if (options_.maxDeletes == UINT64_MAX) return;
    uint64_t entries = 0;
    for (const uint32_t index : tree_.plan.deletes) entries += tree_.own.subtreeEnd(index) - index;
    for (uint32_t index = 1; options_.deleteOthers && index < tree_.wanted.size(); ++index) {
      const uint32_t partner = tree_.plan.partners[index];
      if (partner == kNoEntry || !tree_.own.isDirectory(partner) || tree_.wanted.isDirectory(index)) continue;
      entries += tree_.own.subtreeEnd(partner) - partner;
    }
    if (entries <= options_.maxDeletes) return;
    notes().add("nothing was deleted: it would have been " + std::to_string(entries) + " entries");
    deletesRefused_ = entries;
    tree_.plan.deletes.clear();
    options_.deleteOthers = false;
  }

  std::string itemizeChanges() {
    const RootItem root = options_.entryName.has_value() ? RootItem::kApart
                          : rootIsNew_                   ? RootItem::kMade
                                                         : RootItem::kAsItIs;
    ItemList items = itemize(tree_.own, tree_.wanted, tree_.plan, tree_.missing, ::geteuid() == 0, root);
    if (items.omitted > 0) notes().add(std::to_string(items.omitted) + " more changes are not listed");
    return std::move(items.text);
  }

  // --- Making the tree

  Status apply() {
    tree_.wantedParents.emplace(tree_.root, tree_.wanted);
    tree_.touched.assign(tree_.wanted.size(), false);
    const CancelCheck check = [this] { return cancelled(); };
    TreeMaker maker(options_, tree_, notes(), check);
    {
      const Stopwatch watch;
      DH_CHECK(maker.prepareDirectories());
      std::vector<uint32_t> files;
      uint64_t settledBytes = 0;
      for (uint32_t index = 0; index < tree_.wanted.size(); ++index) {
        if (!tree_.wanted.isRegular(index) || tree_.wanted.isFollower(index) || tree_.missing[index]) continue;
        if (tree_.plan.actions[index] != Action::kContent) {
          ++filesSettled_;
          settledBytes += tree_.wanted.fileBytes(index);
        } else {
          files.push_back(index);
        }
      }
      files_.skip(filesSettled_, settledBytes);
      if (sharedBasis_) {
        DH_TRY(files, applyShared(files));
      }
      DH_CHECK(chooseCommon(files));
      // Of a shared basis, what it did not settle.
      if (!sharedBasis_ || !files.empty()) {
        DH_CHECK(exchange([&](FileRequester& requester) { return requester.request(files); }));
      }
      const std::vector<Repair> repairs = files_.takeRepairs();
      repairedFiles_ = repairs.size();
      if (!repairs.empty()) {
        DH_CHECK(exchange([&](FileRequester& requester) { return requester.requestRepairs(repairs); }));
      }
      DH_CHECK(files_.commitGroup());
      statistics_["filesMs"] = watch.ms();
    }
    const Stopwatch watch;
    DH_CHECK(maker.finishEntries());
    DH_CHECK(maker.deleteOthers());
    deletedEntries_ = maker.deletedEntries();
    DH_CHECK(tree_.partial.removeAll());
    DH_CHECK(maker.finishDirectories());
    if (options_.durable && ::syncfs(tree_.root.fd()) != 0) return systemError(errno, "sync the tree");
    statistics_["finishMs"] = watch.ms();
    return {};
  }

  // A file that is here in no form yet, and large enough: its sender looks for all of it in all of what is common.
  Status chooseCommon(const std::vector<uint32_t>& files) {
    if (announcedCommon_.empty() || options_.common.empty()) return {};
    uint64_t most = kSmallFileBytes;
    for (const uint32_t index : files) {
      const uint64_t bytes = tree_.wanted.fileBytes(index);
      if (tree_.plan.partners[index] != kNoEntry || bytes <= most || bytes > PageMatcher::kMaxBytes) continue;
      most = bytes;
      tree_.commonFor = index;
    }
    if (tree_.commonFor == kNoEntry) return {};
    DH_TRY(tree_.common, CommonBasis::held(options_.common, announcedCommon_, [this] { return cancelled(); }));
    if (tree_.common.bytes() < kPageBytes) tree_.commonFor = kNoEntry;
    return {};
  }

  // What comes against the basis without having been asked for; returns what did not come.
  Result<std::vector<uint32_t>> applyShared(const std::vector<uint32_t>& files) {
    for (const uint32_t index : files) {
      const uint32_t partner = tree_.plan.partners[index];
      BasisChoice choice;
      choice.live = partner != kNoEntry && tree_.own.isRegular(partner) && tree_.own.fileBytes(partner) > 0;
      choice.blockBytes = kMinBlockBytes;
      book_.add(index, std::move(choice));
    }
    files_.expectInPlace(files);
    for (;;) {
      DH_TRY(const Frame frame, receive());
      DH_TRY(const bool taken, files_.takeShared(frame));
      if (taken) continue;
      if (frame.type != static_cast<uint8_t>(Message::kSharedEnd)) return unexpected(frame);
      if (!frame.payload.empty() || !files_.isIdle()) return unexpected(frame);
      return book_.takeAll();
    }
  }

  // Requests files on a thread of its own and applies the answers on this one: whoever applies never waits for the peer
  // to read, so the peer never waits for us for ever.
  Status exchange(const std::function<Status(FileRequester&)>& ask) {
    Status requested;
    pages_.emplace();
    std::atomic<bool> stopRequests{false};
    std::thread requester([&] {
      try {
        requested = request(ask, stopRequests);
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
        job.pages_->close();
        if (!finished) job.book_.close();
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

  // On a thread of its own.
  Status request(const std::function<Status(FileRequester&)>& ask, const std::atomic<bool>& stopRequests) {
    MessageWriter out([this](Bytes buffer) { return write(std::move(buffer)); }, kRequestGatherBytes);
    FileRequester requester(tree_, book_, *pages_, version_, key_, out, stopRequests);
    const Status requested = ask(requester);
    requesterSentBytes_ += out.sentBytes();
    signatureBytes_ += requester.signatureBytes();
    basisReadBytes_ += requester.readBytes();
    if (requested.ok() || stopRequests.load() || requested.error().code == Code::kCancelled) return requested;
    // An own file that cannot be read: tell the peer, whose answer ends the applying thread's wait.
    Bytes buffer;
    DH_CHECK(writeFrame(buffer, static_cast<uint8_t>(Message::kRequestsEnd), {}));
    DH_CHECK(write(std::move(buffer)));
    return requested;
  }

  Status applyAnswers() {
    for (;;) {
      DH_TRY(const Frame frame, receive());
      DH_TRY(const bool taken, files_.take(frame));
      if (taken) continue;
      if (frame.type == static_cast<uint8_t>(Message::kSumsWanted)) {
        DH_CHECK(pages_->ask(frame.payload));
        continue;
      }
      if (frame.type != static_cast<uint8_t>(Message::kAnswersEnd)) return unexpected(frame);
      if (!frame.payload.empty() || !files_.isIdle()) return unexpected(frame);
      if (!book_.isEmpty() && !requesterFailed_.load()) {
        return Error{Code::kProtocol, "requests without an answer", 0};
      }
      return {};
    }
  }

  Result<std::string> digestOfResult() {
    const CancelCheck check = [this] { return cancelled(); };
    Notes ownNotes;
    DH_TRY(ScanResult scanned, scanTree(tree_.root, {}, ownNotes, check));
    DH_CHECK(addContentDigests(tree_.root, scanned.tree, {}, check));
    return digestText(manifestDigest(scanned.tree));
  }

  // What lies here now, so that the next transfer need not read it. It is a help, no part of the transfer.
  void keepRecord(bool settled) {
    if (settled && recorded_.has_value()) return;
    const auto keep = [this, settled]() -> Status {
      const CancelCheck check = [this] { return cancelled(); };
      Notes ownNotes;
      DH_TRY(ScanResult now, scanTree(tree_.root, {{}, {}, true}, ownNotes, check));
      addKnownDigests(settled, now.tree);
      DH_CHECK(addContentDigests(tree_.root, now.tree, {false, true, {}}, check));
      return writeRecord(*options_.recordPath, now.tree, now.stamps);
    };
    const Status kept = keep();
    if (!kept.ok()) notes().add("no record was kept: " + kept.error().context);
  }

  // Those of the files as they were left. Whoever writes a file changes its mtime.
  void addKnownDigests(bool settled, Tree& now) {
    const Tree& left = settled ? tree_.own : tree_.wanted;
    PairWalk walk(left, now);
    while (const auto pair = walk.next()) {
      if (pair->left == kNoEntry || pair->right == kNoEntry) continue;
      if (!left.isRegular(pair->left) || !now.isRegular(pair->right) || now.isFollower(pair->right)) continue;
      const Entry before = left.entry(pair->left);
      const Entry after = now.entry(pair->right);
      if (before.value != after.value || before.mtimeSeconds != after.mtimeSeconds ||
          before.mtimeNanoseconds != after.mtimeNanoseconds) {
        continue;
      }
      const Digest* digest = left.digest(pair->left);
      const auto received = files_.digests().find(pair->left);
      if (received != files_.digests().end()) {
        digest = &received->second;
      } else if (!settled && digest == nullptr && tree_.plan.actions[pair->left] != Action::kContent) {
        const uint32_t partner = tree_.plan.partners[pair->left];
        const bool known = partner != kNoEntry && tree_.own.isRegular(partner) && !tree_.own.isFollower(partner);
        digest = known ? tree_.own.digest(partner) : nullptr;
      }
      if (digest != nullptr) now.setDigest(pair->right, *digest);
    }
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
        {"readBytes", basisReadBytes_},
        {"signatureBytes", signatureBytes_},
        {"sentBytes", sentBytes_},
        {"receivedBytes", receivedBytes()},
        {"deletedEntries", deletedEntries_},
        {"deletesRefused", deletesRefused_},
        {"finishedPatches", finishedPatches_},
        {"missedEntries", static_cast<uint64_t>(std::count(tree_.missing.begin(), tree_.missing.end(), true))},
        {"incompleteSource", complete_ ? 0 : 1},
        {"hashedBytes", hashedBytes_},
        {"basisRefused", basisRefused_ ? 1 : 0},
        {"commonFiles", static_cast<uint64_t>(std::popcount(tree_.common.which()))},
    };
    for (const auto& [name, value] : counts) statistics_[name] = static_cast<double>(value);
    files_.addTo(statistics_);
    return report(statistics_, std::move(text));
  }

  ReceiveJobOptions options_;
  Key key_{};
  bool verify_ = false;
  bool complete_ = false;
  bool rootIsNew_ = false;
  uint64_t announcedEntries_ = 0;
  Digest announcedDigest_{};
  std::optional<Digest> announcedBasis_;
  std::vector<CommonFileName> announcedCommon_;
  std::optional<Tree> recorded_;              // as the record has it, if it knows all files that lie here
  std::optional<BasisManifest> ownManifest_;  // while the sender's is compressed beside it
  bool sharedBasis_ = false;
  bool basisRefused_ = false;
  uint64_t filesTotal_ = 0;
  uint64_t bytesTotal_ = 0;
  Unpacker unpacker_;
  TreeInMaking tree_;
  RequestBook book_;
  FileReceiver files_;
  uint16_t version_ = kTransferVersion;
  std::optional<PageRequests> pages_;  // of the exchange that goes on
  std::atomic<bool> requesterFailed_{false};

  Statistics statistics_;
  uint64_t doneBytes_ = 0;
  uint64_t doneFiles_ = 0;
  uint64_t filesSettled_ = 0;
  uint64_t repairedFiles_ = 0;
  uint64_t deletedEntries_ = 0;
  uint64_t deletesRefused_ = 0;
  uint64_t finishedPatches_ = 0;
  uint64_t sentBytes_ = 0;
  // Written by the requesting thread, read after it has ended.
  uint64_t requesterSentBytes_ = 0;
  uint64_t signatureBytes_ = 0;
  uint64_t hashedBytes_ = 0;
  uint64_t basisReadBytes_ = 0;
};

}  // namespace

std::unique_ptr<Job> makeReceiveJob(ReceiveJobOptions options) {
  return std::make_unique<ReceiveJob>(std::move(options));
}

}  // namespace deltahop
