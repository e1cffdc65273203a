// Sections: runs of bytes, each stored the shorter way. FORMATS.md section 3.
#pragma once

#include <cstddef>
#include <memory>

#include "base/bytes.h"
#include "base/result.h"
#include "codec/literal_stream.h"
#include "wire/reader.h"

namespace deltahop {

/// Writes sections. One thread.
class SectionWriter {
 public:
  explicit SectionWriter(int zstdLevel);
  ~SectionWriter();
  SectionWriter(SectionWriter&&) noexcept;

  /// For the sections from now on.
  void setLevel(int zstdLevel);
  /// Appends a section; bytes that the reader will hold as well help as `prefix`. Returns the bytes of its content as
  /// written.
  Result<size_t> write(Bytes& output, ByteSpan raw, ByteSpan prefix = {});
  /// The same as a piece of a stream of literals.
  Result<size_t> write(Bytes& output, ByteSpan raw, LiteralStreamWriter& stream);

 private:
  struct Compressor;
  std::unique_ptr<Compressor> compressor_;
  Bytes encoded_;
};

/// Reads them back.
class SectionReader {
 public:
  SectionReader();
  ~SectionReader();
  SectionReader(SectionReader&&) noexcept;

  /// Fills `raw`. kLimit for more than `maxBytes`, kCorrupt, kUnsupported.
  Status read(Reader& reader, size_t maxBytes, Bytes& raw, ByteSpan prefix = {});
  /// The same for a section that may be a piece of a stream of literals.
  Status read(Reader& reader, size_t maxBytes, Bytes& raw, LiteralStreamReader& stream);

 private:
  struct Decompressor;
  std::unique_ptr<Decompressor> decompressor_;
};

}  // namespace deltahop
