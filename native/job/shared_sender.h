// The sender's answers against a shared basis, given before anybody asked.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "codec/section.h"
#include "job/file_sender.h"
#include "job/moved_files.h"
#include "job/shared_basis.h"
#include "match/page_matcher.h"
#include "tree/record.h"
#include "tree/tree_plan.h"

namespace deltahop {

/// Sends what changed between a basis that lies here and the tree. What it cannot send is left to the requests.
class SharedSender {
 public:
  /// `stopped` is asked between messages: true when the receiver does not hold the basis. All must outlive the sender.
  SharedSender(const FileSender::Surroundings& around, FileSender& files, const TreeRecord& basis,
               const std::string& basisPath, std::function<Result<bool>()> stopped);

  Digest basisDigest() const { return manifest_.digest(); }
  /// Nothing is to be sent: the tree is the basis.
  bool isSettled() const;
  /// Manifest, files, end mark; the end mark comes even if it was stopped in between.
  Status send();
  void addTo(std::map<std::string, double>& statistics) const;

 private:
  enum class Outcome : uint8_t { kSent, kStopped };

  Result<Outcome> sendAll();
  Result<Outcome> sendManifest();
  bool isSearched(uint32_t index) const;
  Result<Outcome> sendFiles(bool searched);
  Result<Outcome> sendFile(uint32_t index);
  bool maySame(uint32_t index, uint32_t partner) const;
  Result<bool> sendSame(uint32_t index, uint32_t partner, FileSender::Source& source);
  Result<File> openOld(uint32_t partner);
  Status sendSmall(uint32_t index, FileSender::Source source, const File& old, uint64_t oldBytes);
  Status flushSmall();
  Status flushAll();
  Result<Outcome> sendPages(uint32_t index, FileSender::Source source, const File& old);
  Result<Outcome> sendParts(uint32_t index, FileSender::Source source, const File& old, uint64_t oldBytes);
  Status sendMatched(uint32_t index, FileSender::Source source, File old);

  const FileSender::Surroundings& around_;
  FileSender& files_;
  const TreeRecord& basis_;
  std::function<Result<bool>()> stopped_;
  BasisManifest manifest_;
  TreePlan plan_;
  MovedFiles moved_;
  Directory basisRoot_;
  std::optional<ParentCache> basisParents_;
  std::vector<bool> linked_;  // of the basis: under several names
  SectionWriter sections_;
  // Small files on their way.
  std::vector<uint32_t> small_;
  Bytes smallContents_;
  Bytes smallOld_;
  PageStatistics pages_;
  uint64_t residualEncodedBytes_ = 0;
};

}  // namespace deltahop
