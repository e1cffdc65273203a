// The receiver's application of answers, one file each.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "codec/in_place_output.h"
#include "codec/patcher.h"
#include "codec/section.h"
#include "io/basis.h"
#include "job/offers.h"
#include "job/receive_job.h"
#include "job/request_book.h"
#include "job/transfer_job.h"
#include "job/tree_in_making.h"

namespace deltahop {

/// Makes files of what arrives: privately, verified, then under their names. One thread, which never waits for the
/// peer.
class FileReceiver {
 public:
  /// All must outlive the receiver. `advance` is told when bytes or files were done.
  FileReceiver(const ReceiveJobOptions& options, TreeInMaking& tree, RequestBook& book, Notes& notes,
               std::function<void(uint64_t doneBytes, uint64_t doneFiles)> advance)
      : options_(options), tree_(tree), book_(book), notes_(notes), advance_(std::move(advance)) {}

  /// The version of the transfer, before the first message.
  void speak(uint16_t version) { version_ = version; }
  /// Takes a message that may answer a request; false if it is of another kind.
  Result<bool> take(const Frame& frame);
  /// Takes a message against the shared basis, which is what lies here; false if it is of another kind. The sender
  /// works out by itself what is to be sent: what is not wanted here is dropped.
  Result<bool> takeShared(const Frame& frame);
  /// The large file that is likely to be patched where it lies is read from now on, beside all else: what stays of it
  /// counts towards the digest of what it becomes.
  void expectInPlace(const std::vector<uint32_t>& indexes);
  /// Nothing is under way between two files.
  bool isIdle() const { return incoming_ == nullptr; }
  /// Files whose digest was wrong, to be requested once more; a second failure is an error.
  std::vector<Repair> takeRepairs();
  /// Puts the files that were gathered (durable ones) under their names.
  Status commitGroup();
  /// The transfer failed: what is finished takes its place all the same, so that the next one need not ask for it.
  void keepFinished(const Error& error);
  /// Counts files that need not come.
  void skip(uint64_t files, uint64_t bytes);
  /// Adds its figures.
  void addTo(std::map<std::string, double>& statistics) const;
  /// Content digests of the files that were received, if a record will be written.
  const std::unordered_map<uint32_t, Digest>& digests() const { return digests_; }

 private:
  // A file whose delta is arriving.
  struct Incoming {
    uint32_t index = 0;
    std::string name;         // in the partial directory
    std::string wrongResult;  // there too, if it is being repaired
    File file;                // private; not open where the file is patched in place
    Basis basis;
    std::unique_ptr<PatchOutput> output;
    InPlaceOutput* inPlace = nullptr;  // the output, if it is one
    std::unique_ptr<SegmentDigests> segments;
    std::optional<Patcher> patcher;
    bool basisChanged = false;
    bool dropped = false;
  };
  struct Finished {
    uint32_t index = 0;
    std::string name;
  };

  Result<bool> takeUnasked(const Frame& frame);
  void keepForRepair(const Incoming& incoming);
  Status begin(uint64_t number);
  Status beginInPlace(Incoming& incoming);
  Status beginPrivately(Incoming& incoming, bool isLikely);
  Result<File> openForPatch(uint32_t index) const;
  Status onDelta(ByteSpan payload);
  Status onFileEnd(ByteSpan payload);
  Status onSmallFiles(ByteSpan payload);
  Status onGone(ByteSpan payload);
  Status onSame(ByteSpan payload);
  Status onDiffers(ByteSpan payload);
  Status onSameAsOld(const SameFiles& same);
  Status makeSame(uint32_t index, const BasisChoice& choice);
  Result<bool> keepAtPath(uint32_t index, uint32_t own, const Digest& digest);
  Status end(uint8_t flags, uint64_t size, const Digest& expected);
  Status onPages(ByteSpan payload);
  Status onPart(ByteSpan payload);
  Status onSmallChanges(ByteSpan payload);
  Result<uint64_t> goOn(Reader& reader);
  Status applied(uint64_t doneBefore, const Status& status, bool shared);
  Status readOld(uint64_t index, Bytes& output);
  Status makeSmall(uint64_t number, uint8_t flags, ByteSpan content);
  Result<File> create(uint32_t index, std::string& name);
  Status failIncoming(const Error& error);
  Status finishInPlace(Incoming& incoming, uint8_t flags, const Digest& digest);
  Metadata metadataFor(uint32_t index, uint8_t flags) const;
  void countFile();
  Status finishFile(uint32_t index, File& file, const std::string& name, uint8_t flags, uint64_t size,
                    const Digest& digest);
  Status commit(const Finished& finished);

  const ReceiveJobOptions& options_;
  TreeInMaking& tree_;
  RequestBook& book_;
  Notes& notes_;
  std::function<void(uint64_t, uint64_t)> advance_;
  uint16_t version_ = kTransferVersion;
  Unpacker unpacker_;
  SectionReader sections_;
  LiteralStreamReader literals_;
  Bytes old_;
  Bytes content_;
  std::unordered_map<uint32_t, Digest> digests_;
  uint32_t expected_ = kNoEntry;
  std::unique_ptr<SegmentDigests> expectedSegments_;  // of that file
  std::unique_ptr<Incoming> incoming_;
  bool canClone_ = true;  // as far as is known
  std::vector<Repair> repairs_;
  bool repairing_ = false;
  bool unasked_ = false;  // answers come that were not asked for
  std::vector<Finished> group_;
  uint64_t groupBytes_ = 0;
  uint64_t doneBytes_ = 0;
  uint64_t doneFiles_ = 0;
  uint64_t filesReceived_ = 0;
  uint64_t literalBytes_ = 0;
  uint64_t matchedBytes_ = 0;
  uint64_t keptBytes_ = 0;
  uint64_t zeroBytes_ = 0;
  uint64_t repairedFiles_ = 0;
  uint64_t goneFiles_ = 0;
  uint64_t patchedFiles_ = 0;
  uint64_t clonedFiles_ = 0;
};

}  // namespace deltahop
