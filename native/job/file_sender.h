// The sender's answers, one file each.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "codec/delta_encoder.h"
#include "hash/blake3.h"
#include "job/offers.h"
#include "job/send_job.h"
#include "job/transfer_job.h"
#include "signature/signature.h"
#include "tree/scan.h"
#include "tree/tree.h"

namespace deltahop {

/// Opens the files of a tree, turns them into messages and counts what became of them. One thread.
class FileSender {
 public:
  /// What the answers have in common; everything that is referred to must outlive the sender.
  struct Surroundings {
    const SendJobOptions& options;
    const Directory& root;
    const Tree& tree;
    MessageWriter& out;
    Notes& notes;
    std::function<bool()> cancelled;
    /// The level for what is compressed next.
    std::function<int()> level;
    /// Told bytes and files done so far.
    std::function<void(uint64_t doneBytes, uint64_t doneFiles)> advance;
  };
  explicit FileSender(Surroundings surroundings);
  ~FileSender();

  /// An open file of the tree.
  struct Source {
    File file;  // not open: gone, and the peer was told
    struct stat before{};
    bool changed = false;  // not what the manifest says of it
    uint64_t bytes() const { return static_cast<uint64_t>(before.st_size); }
  };

  /// A file as it is. Small ones are gathered: flush() before the peer is waited for.
  Status sendWhole(uint32_t index, const Key& key);
  /// As much of a file's delta as a signature allows that is still being read; the same one must be given to
  /// sendDelta() in the end, and nothing else be sent before.
  Status beginDelta(uint32_t index, const Signature& growing);
  /// A file as a delta from the basis of this signature, or the rest of it.
  Status sendDelta(uint32_t index, const Signature& signature);
  /// A file of which the receiver has one with this keyed digest: that it is the same or not, or all of it.
  Status answerOffer(uint32_t index, ByteSpan offered, const Key& key);
  /// True if the receiver is known to understand that a file is the same as that of a shared basis.
  bool maySaySame() const { return version_ >= kSharedSameVersion; }
  /// True if the receiver is known to make rolling sums.
  bool mayAskForRollingSums() const { return version_ >= kRollingSumsVersion; }
  /// That a file is what the receiver has: this is the digest of that. These are gathered as small ones are.
  Status sendSame(uint32_t index, const Digest& digest);
  /// Sends the small files gathered so far.
  Status flush();
  /// The version of the transfer, once it is known; the receiver may not have read what was sent before.
  void speak(uint16_t version) {
    version_ = version;
    literals_.restart();
  }
  /// Sends the blocks of a file.
  DeltaEncoder::BlockSink blocksOf(uint32_t index);
  /// The stream that their literals go into; null while it is not known that the receiver can read one.
  LiteralStreamWriter* stream();
  /// Forgets them instead: nobody wants them in this way.
  void forget();
  /// Adds its figures.
  void addTo(std::map<std::string, double>& statistics) const;
  /// Content digests of the files that were sent as they are, if a record will be written.
  const std::unordered_map<uint32_t, Digest>& digests() const { return digests_; }

  // What other ways of answering are made of.

  /// Vanished or replaced files are an answer, not an error, where the tree is alive.
  Result<Source> open(uint32_t index);
  /// Of all of an open file; kChanged if it became shorter.
  Result<Digest> digestOf(const Source& source);
  /// To be called after the file was read.
  Status checkUnchanged(uint32_t index, Source& source);
  Status sendGone(uint32_t index, const char* why);
  Status sendWhole(uint32_t index, Source source, const Key& key);
  Status sendDelta(uint32_t index, Source source, const Signature& signature);
  /// The reading of a file failed: it shrank under our hands and is gone for this time, or that is the error.
  Status sendFailure(uint32_t index, Error error);
  /// Says that all of a file was sent.
  Status sendEnd(uint32_t index, bool changed, uint64_t size, const Digest& digest);
  /// Adds the figures of a file that was matched elsewhere; what was found only counts the first time.
  void addMatched(uint32_t index, uint64_t readBytes, uint64_t matchedBytes, uint64_t zeroBytes,
                  const EncodeStatistics& encoded);
  /// Counts a file as sent, once even if it is sent again. The digest is that of what was sent.
  void sentFile(uint32_t index, bool changed, const Digest& digest);
  uint64_t doneBytes() const { return doneBytes_; }
  uint64_t doneFiles() const { return filesSent_; }

 private:
  struct Delta;

  Status openDelta(uint32_t index, Source source, const Signature& signature, bool isWhole);
  Status matchDelta();
  Status finishDelta();
  Status endDelta(Error error);
  Status flushSame();
  Status flushDiffers();

  Surroundings around_;
  Packer packer_;
  LiteralStreamWriter literals_;
  ParentCache parents_;
  Bytes batch_;
  FileListWriter same_;
  Blake3 sameDigests_;
  FileListWriter differs_;
  Bytes content_;
  std::unordered_map<uint32_t, Digest> digests_;
  std::vector<bool> sent_;        // by entry
  std::unique_ptr<Delta> delta_;  // the one under way
  uint16_t version_ = 0;
  uint64_t filesSent_ = 0;
  uint64_t doneBytes_ = 0;
  uint64_t readBytes_ = 0;
  uint64_t literalBytes_ = 0;
  uint64_t literalEncodedBytes_ = 0;
  uint64_t matchedBytes_ = 0;
  uint64_t zeroBytes_ = 0;
  uint64_t falseMatches_ = 0;
  uint64_t changedFiles_ = 0;
  uint64_t goneFiles_ = 0;
};

}  // namespace deltahop
