// Files outside of a tree that both of its nodes may hold, as the disks below a machine's own: what memory has read of
// them need not be sent. FORMATS.md section 5.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "io/basis.h"
#include "tree/scan.h"
#include "wire/reader.h"

namespace deltahop {

/// A file that the other side may hold as well.
struct CommonFile {
  std::string path;
  /// By which both sides know its content; without it, its content digest, for which it is read.
  std::optional<Digest> id = {};
};

/// What is said of one.
struct CommonFileName {
  Digest id{};
  uint64_t bytes = 0;
  bool operator==(const CommonFileName&) const = default;
};

/// Those of which both sides have said that they hold them, one after the other. They are opened when they are needed:
/// a file that is another by then is found by the digest of what it was to help with.
class CommonBasis {
 public:
  /// What is here of these files: names to announce. Left out is what cannot be read, is a link, or is no regular file,
  /// and what one basis has no room for. kCancelled.
  static Result<CommonBasis> offered(std::span<const CommonFile> files, const CancelCheck& cancelled);
  /// What is here of these files that the other side has announced.
  static Result<CommonBasis> held(std::span<const CommonFile> files, std::span<const CommonFileName> announced,
                                  const CancelCheck& cancelled);

  /// Those of the bits of `which`; kProtocol for a bit of no file, and for none.
  Result<CommonBasis> chosen(uint8_t which) const;

  const std::vector<CommonFileName>& names() const { return names_; }
  /// Of what was announced: bit i is the i-th.
  uint8_t which() const { return which_; }
  /// Of all as one range, by the names; 0 if there are none.
  uint64_t bytes() const;
  /// Without those that cannot be opened any more: then it has another size.
  Result<Basis> open() const;

 private:
  std::vector<std::string> paths_;
  std::vector<CommonFileName> names_;
  uint8_t which_ = 0;
};

/// Appends names to a message.
void writeCommonFiles(Bytes& output, std::span<const CommonFileName> names);
/// Reads them; kProtocol for none, and for more than one basis takes.
Result<std::vector<CommonFileName>> readCommonFiles(Reader& reader);

}  // namespace deltahop
