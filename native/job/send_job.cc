#include "job/send_job.h"

#include <algorithm>
#include <utility>

#include "job/file_sender.h"
#include "job/level_chooser.h"
#include "job/page_sender.h"
#include "job/shared_sender.h"
#include "job/transfer_job.h"
#include "signature/signature.h"
#include "tree/manifest.h"
#include "tree/overlay_diff.h"
#include "tree/record.h"
#include "tree/scan.h"
#include "wire/writer.h"

namespace deltahop {
namespace {

constexpr size_t kGatherBytes = 256 << 10;
constexpr size_t kManifestPieceBytes = 256 << 10;
// A file is offered, asked for, and once more if what arrived was not right.
constexpr uint8_t kMaxRequestsPerFile = 3;

// What a record says is of whole trees that lie as they are sent.
SendJobOptions withoutUnfitRecords(SendJobOptions options) {
  if (options.entryName.has_value() || options.againstPath.has_value()) {
    options.recordPath.reset();
    options.basis.reset();
  }
  return options;
}

class SendJob final : public TransferJob {
 public:
  explicit SendJob(SendJobOptions options)
      : options_(withoutUnfitRecords(std::move(options))),
        out_([this](Bytes buffer) { return write(std::move(buffer)); }, kGatherBytes),
        packer_(options_.zstdLevel) {}
  ~SendJob() override { stop(); }

 protected:
  Result<JobReport> transfer() override {
    DH_CHECK(sendHello());
    DH_TRY(const Directory above, Directory::openRoot(options_.rootPath));
    DH_TRY(root_, above.openBeneath(options_.beneath));
    if (options_.entryName.has_value()) {
      const auto status = root_.status(*options_.entryName);
      if (!status.ok()) return status.error();
    }
    DH_CHECK(readTree());
    prepareShared();
    DH_CHECK(prepareCommon());
    DH_CHECK(sendTree());
    if (shared_.has_value()) {
      const Stopwatch watch;
      DH_CHECK(shared_->send());
      statistics_["sharedMs"] = watch.ms();
    }
    while (!answer_.has_value()) DH_CHECK(takeAnswer());
    if (*answer_ == Message::kSettled) {
      DH_TRY(const Frame done, receive());
      if (done.type != static_cast<uint8_t>(Message::kDone)) return unexpected(done);
      DH_CHECK(readDone(done.payload));
    } else {
      if (*answer_ == Message::kManifestWanted) DH_CHECK(sendManifest());
      const Stopwatch watch;
      DH_CHECK(serve());
      statistics_["serveMs"] = watch.ms();
    }
    if (options_.recordPath.has_value()) keepRecord();
    advance(tree_.totalBytes(), tree_.totalFiles(), true);
    return finish();
  }

 private:
  static Error unexpected(const Frame& frame) {
    return Error{Code::kProtocol, "unexpected message " + std::to_string(frame.type), 0};
  }

  Status sendHello() {
    Bytes payload;
    Writer writer(payload);
    writer.u32(kTransferMagic);
    writer.u16(kOldestTransferVersion);
    writer.u16(kTransferVersion);
    writer.u8(options_.verify ? kHelloVerify : 0);
    DH_CHECK(out_.send(Message::kSenderHello, payload));
    return out_.flush();
  }

  // The receiver's hello, and then what it says to the tree.
  Status takeAnswer() {
    DH_TRY(const Frame frame, receive());
    if (!helloReceived_) {
      helloReceived_ = true;
      return onHello(frame);
    }
    const auto type = static_cast<Message>(frame.type);
    const bool isAnswer = type == Message::kSettled || type == Message::kManifestWanted ||
                          (type == Message::kBasisHeld && shared_.has_value());
    if (!isAnswer) return unexpected(frame);
    answer_ = type;
    return {};
  }

  Status onHello(const Frame& hello) {
    if (hello.type != static_cast<uint8_t>(Message::kReceiverHello)) return unexpected(hello);
    Reader reader(hello.payload);
    DH_TRY(const uint32_t magic, reader.u32());
    if (magic != kTransferMagic) return Error{Code::kProtocol, "the peer is no receiver of trees", 0};
    DH_TRY(const uint16_t oldest, reader.u16());
    DH_TRY(const uint16_t newest, reader.u16());
    if (oldest > kTransferVersion || newest < kOldestTransferVersion) {
      return Error{Code::kUnsupported, "the receiver's version of the transfer", 0};
    }
    DH_TRY(const ByteSpan key, reader.take(sizeof(Key)));
    std::copy(key.begin(), key.end(), key_.begin());
    version_ = std::min(newest, kTransferVersion);
    if (files_.has_value()) files_->speak(version_);
    return reader.expectEnd();
  }

  Status readTree() {
    const CancelCheck check = [this] { return cancelled(); };
    const Stopwatch scanWatch;
    const ScanOptions scanOptions{options_.excludeXattrs, options_.entryName, options_.recordPath.has_value()};
    DH_TRY(ScanResult scanned, scanTree(root_, scanOptions, notes(), check));
    complete_ = scanned.complete;
    if (options_.againstPath.has_value()) {
      DH_TRY(const Directory baseRoot, Directory::openRoot(*options_.againstPath));
      Notes baseNotes;
      DH_TRY(const ScanResult base, scanTree(baseRoot, scanOptions, baseNotes, check));
      // A base that is not read whole would make entries look new, and whiteouts be missing.
      if (!base.complete || !complete_) {
        return Error{Code::kIo, "a tree to be compared could not be read whole", 0};
      }
      DH_TRY(tree_, overlayDiff(baseRoot, base.tree, root_, scanned.tree, check));
    } else {
      tree_ = std::move(scanned.tree);
      stamps_ = std::move(scanned.stamps);
    }
    const bool late = options_.verify && options_.lateDigests;
    if (options_.recordPath.has_value() && !late) {
      const auto record = readRecord(*options_.recordPath);
      if (record.has_value()) addRecordedDigests(*record, tree_, stamps_);
    }
    statistics_["scanMs"] = scanWatch.ms();
    advance(0, 0, true);
    if (options_.verify && !late) {
      const Stopwatch watch;
      DH_CHECK(addContentDigests(root_, tree_, {!options_.allowChanging, true, countHashed(hashedBytes_)}, check));
      statistics_["digestMs"] = watch.ms();
    }
    requests_.assign(tree_.size(), 0);
    around_.emplace(FileSender::Surroundings{
        options_, root_, tree_, out_, notes(), [this] { return cancelled(); },
        [this] { return level_.choose(out_.sentBytes(), outputWaiting(), LevelChooser::Clock::now()); },
        [this](uint64_t doneBytes, uint64_t doneFiles) { advance(doneBytes, doneFiles); }});
    files_.emplace(*around_);
    pages_.emplace(*around_, *files_, key_);
    return {};
  }

  // A basis without every digest has no name that the receiver could know.
  void prepareShared() {
    if (!options_.basis.has_value()) return;
    basis_ = readRecord(options_.basis->recordPath);
    if (!basis_.has_value() || !hasAllDigests(basis_->tree)) return;
    shared_.emplace(*around_, *files_, *basis_, options_.basis->treePath, [this]() -> Result<bool> {
      while (!answer_.has_value() && messageWaiting()) DH_CHECK(takeAnswer());
      return answer_.has_value() && *answer_ != Message::kBasisHeld;
    });
    // That nothing has changed the receiver sees by itself.
    if (!shared_->isSettled()) return;
    shared_.reset();
    statistics_["basisSettled"] = 1;
  }

  // A receiver of an older version does not know of them. Its hello is on its way.
  Status prepareCommon() {
    if (options_.common.empty() || shared_.has_value() || statistics_.contains("basisSettled")) return {};
    while (!helloReceived_) DH_CHECK(takeAnswer());
    if (version_ < kCommonFilesVersion) return {};
    DH_TRY(common_, CommonBasis::offered(options_.common, [this] { return cancelled(); }));
    return {};
  }

  // What was sent, as the basis of the next time. It is a help, no part of the transfer.
  void keepRecord() {
    for (const auto& [index, digest] : files_->digests()) tree_.setDigest(index, digest);
    const CancelCheck check = [this] { return cancelled(); };
    Status kept = addContentDigests(root_, tree_, {false, true, {}}, check);
    if (kept.ok()) kept = writeRecord(*options_.recordPath, tree_, stamps_);
    if (!kept.ok()) notes().add("no record was kept: " + kept.error().context);
  }

  Status sendTree() {
    Bytes payload;
    Writer writer(payload);
    const bool hasCommon = common_.bytes() > 0;
    writer.u8(static_cast<uint8_t>((complete_ ? kTreeComplete : 0) | (shared_.has_value() ? kTreeShared : 0) |
                                   (hasCommon ? kTreeCommon : 0)));
    writer.varint(tree_.size());
    writer.varint(tree_.totalFiles());
    writer.varint(tree_.totalBytes());
    writer.raw(manifestDigest(tree_, options_.verify));
    if (shared_.has_value()) writer.raw(shared_->basisDigest());
    if (hasCommon) writeCommonFiles(payload, common_.names());
    DH_CHECK(out_.send(Message::kTree, payload));
    return out_.flush();
  }

  Status sendManifest() {
    const uint64_t before = out_.sentBytes();
    ManifestEncoder encoder(tree_, options_.verify);
    Bytes piece;
    for (bool more = true; more;) {
      piece.clear();
      more = encoder.next(piece, kManifestPieceBytes);
      Bytes payload;
      DH_CHECK(packer_.pack(payload, piece));
      DH_CHECK(out_.send(Message::kManifest, payload));
    }
    DH_CHECK(out_.send(Message::kManifestEnd, {}));
    DH_CHECK(out_.flush());
    manifestBytes_ = out_.sentBytes() - before;
    return {};
  }

  // Answers in the order of the requests. Nothing that was gathered stays behind while there is nothing to do.
  Status serve() {
    files_->speak(version_);
    for (;;) {
      if (!messageWaiting()) {
        DH_CHECK(files_->flush());
        DH_CHECK(out_.flush());
      }
      DH_TRY(const Frame frame, receive());
      switch (static_cast<Message>(frame.type)) {
        case Message::kRequest:
          DH_CHECK(onRequest(frame.payload));
          break;
        case Message::kSignature:
          DH_CHECK(onSignature(frame.payload));
          break;
        case Message::kOffer:
          signatureBytes_ += frame.payload.size();
          DH_CHECK(onOffer(frame.payload));
          break;
        case Message::kPagesWanted:
          DH_CHECK(onPagesWanted(frame.payload));
          break;
        case Message::kSums:
          signatureBytes_ += frame.payload.size();
          DH_CHECK(pages_->takeSums(frame.payload));
          break;
        case Message::kRequestsEnd:
          if (!frame.payload.empty() || parser_.has_value() || requestsEnded_) return unexpected(frame);
          requestsEnded_ = true;
          break;
        case Message::kDone:
          return readDone(frame.payload);
        default:
          return unexpected(frame);
      }
      DH_CHECK(pages_->advance());
      if (requestsEnded_ && pages_->isIdle()) {
        requestsEnded_ = false;
        DH_CHECK(files_->flush());
        DH_CHECK(out_.send(Message::kAnswersEnd, {}));
        DH_CHECK(out_.flush());
      }
    }
  }

  Result<uint32_t> checkIndex(uint64_t index) {
    if (index >= tree_.size()) return Error{Code::kProtocol, "a request for no entry", 0};
    const auto entry = static_cast<uint32_t>(index);
    if (!tree_.isRegular(entry) || tree_.isFollower(entry)) {
      return Error{Code::kProtocol, "a request for what is no file", 0};
    }
    return entry;
  }

  Status onOffer(ByteSpan payload) {
    DH_CHECK(checkOrder());
    const size_t sumBytes = version_ >= kDiffersVersion ? kOfferBytes : kLoneOfferBytes;
    DH_TRY(const std::vector<Offer> offers, readOffers(payload, tree_.size(), sumBytes));
    for (const Offer& offer : offers) {
      DH_TRY(const uint32_t index, checkIndex(offer.index));
      DH_CHECK(countRequest(index));
      DH_CHECK(files_->answerOffer(index, offer.sum, key_));
    }
    return {};
  }

  // Requests by pages come last: their answers take time, and stand between no others.
  Status checkOrder() const {
    if (parser_.has_value()) return Error{Code::kProtocol, "a request inside a signature", 0};
    if (requestsEnded_ || !pages_->isIdle()) return Error{Code::kProtocol, "a request behind the last", 0};
    return {};
  }

  Status onPagesWanted(ByteSpan payload) {
    if (parser_.has_value() || requestsEnded_) return Error{Code::kProtocol, "a request out of place", 0};
    signatureBytes_ += payload.size();
    Reader reader(payload);
    DH_TRY(const uint64_t number, reader.varint());
    DH_TRY(const uint32_t index, checkIndex(number));
    DH_TRY(const uint8_t flags, reader.u8());
    DH_TRY(const uint64_t basisBytes, reader.varint());
    const uint8_t known = kPagesExact | (version_ >= kCommonFilesVersion ? kPagesCommon : 0);
    if ((flags & ~known) != 0) return Error{Code::kUnsupported, "a flag of a request by pages", 0};
    std::optional<CommonBasis> common;
    if ((flags & kPagesCommon) != 0) {
      DH_TRY(const uint8_t which, reader.u8());
      DH_TRY(common, common_.chosen(which));
      if (common->bytes() != basisBytes) return Error{Code::kProtocol, "pages of another basis", 0};
    }
    DH_CHECK(reader.expectEnd());
    DH_CHECK(countRequest(index));
    return pages_->want(index, basisBytes, (flags & kPagesExact) != 0, std::move(common));
  }

  Status countRequest(uint32_t index) {
    if (++requests_[index] > kMaxRequestsPerFile) return Error{Code::kProtocol, "a file requested too often", 0};
    return {};
  }

  Status onRequest(ByteSpan payload) {
    DH_CHECK(checkOrder());
    Reader reader(payload);
    DH_TRY(const std::vector<uint32_t> indexes, readFileList(reader, tree_.size()));
    for (const uint32_t number : indexes) {
      DH_TRY(const uint32_t index, checkIndex(number));
      DH_CHECK(countRequest(index));
      DH_CHECK(files_->sendWhole(index, key_));
    }
    return {};
  }

  Status onSignature(ByteSpan payload) {
    signatureBytes_ += payload.size();
    Reader reader(payload);
    DH_TRY(const uint64_t number, reader.varint());
    DH_TRY(const uint32_t index, checkIndex(number));
    DH_TRY(const uint8_t flags, reader.u8());
    if (!parser_.has_value()) {
      DH_CHECK(checkOrder());
      DH_CHECK(countRequest(index));
      parser_.emplace(key_);
      signatureIndex_ = index;
    }
    if (index != signatureIndex_) return Error{Code::kProtocol, "a signature inside another", 0};
    DH_TRY(const ByteSpan piece, reader.take(reader.remaining()));
    DH_CHECK(parser_->feed(piece));
    if (!(flags & kSignatureLast)) return files_->beginDelta(index, parser_->signature());
    if (!parser_->ended()) return parser_->finish().error();
    const Status sent = files_->sendDelta(index, parser_->signature());
    parser_.reset();
    return sent;
  }

  void advance(uint64_t bytes, uint64_t files, bool force = false) {
    progress(Progress{std::min(bytes, tree_.totalBytes()), tree_.totalBytes(), std::min(files, tree_.totalFiles()),
                      tree_.totalFiles()},
             force);
  }

  Status readDone(ByteSpan payload) {
    Reader reader(payload);
    DH_TRY(const uint64_t settled, reader.varint());
    DH_TRY(const uint64_t repaired, reader.varint());
    DH_TRY(const uint64_t deleted, reader.varint());
    DH_CHECK(reader.expectEnd());
    statistics_["filesSettled"] = static_cast<double>(settled);
    statistics_["repairedFiles"] = static_cast<double>(repaired);
    statistics_["deletedEntries"] = static_cast<double>(deleted);
    return {};
  }

  JobReport finish() {
    const std::pair<const char*, uint64_t> counts[] = {
        {"filesTotal", tree_.totalFiles()}, {"totalBytes", tree_.totalBytes()}, {"signatureBytes", signatureBytes_},
        {"hashedBytes", hashedBytes_},      {"manifestBytes", manifestBytes_},  {"sentBytes", out_.sentBytes()},
        {"receivedBytes", receivedBytes()},
    };
    for (const auto& [name, value] : counts) statistics_[name] = static_cast<double>(value);
    files_->addTo(statistics_);
    if (shared_.has_value()) {
      shared_->addTo(statistics_);
      statistics_["basisRefused"] = *answer_ == Message::kManifestWanted ? 1 : 0;
    }
    return report(statistics_);
  }

  const SendJobOptions options_;
  MessageWriter out_;
  LevelChooser level_{options_.zstdLevel};
  Packer packer_;
  Directory root_;
  Tree tree_;
  bool complete_ = true;
  std::vector<FileStamp> stamps_;
  std::optional<FileSender::Surroundings> around_;
  std::optional<FileSender> files_;
  std::optional<PageSender> pages_;
  bool requestsEnded_ = false;
  std::optional<TreeRecord> basis_;
  std::optional<SharedSender> shared_;
  CommonBasis common_;
  bool helloReceived_ = false;
  uint16_t version_ = kOldestTransferVersion;
  std::optional<Message> answer_;
  Key key_{};
  std::vector<uint8_t> requests_;  // by entry
  std::optional<SignatureParser> parser_;
  uint32_t signatureIndex_ = 0;
  Statistics statistics_;
  uint64_t signatureBytes_ = 0;
  uint64_t hashedBytes_ = 0;
  uint64_t manifestBytes_ = 0;
};

}  // namespace

std::unique_ptr<Job> makeSendJob(SendJobOptions options) {
  return std::make_unique<SendJob>(std::move(options));
}

}  // namespace deltahop
