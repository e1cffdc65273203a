// Any messages to a receiver that runs in a directory of its own: it ends, and nothing outside of its root is touched.
// Input: u16 length of a manifest, the manifest (what announces it is made here, else no input would get past the
// digest), then messages as u8 type, u16 length, payload. Of small files only what is packed is given, and of files
// that are the same only which: their digest is made here as if it were one, "basis". Sender and receiver have a file
// in common, which lies outside.
#include <ftw.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>

#include "hash/blake3.h"
#include "hash/content_digest.h"
#include "job/receive_job.h"
#include "job/transfer_message.h"
#include "tree/manifest.h"
#include "wire/frame.h"
#include "wire/writer.h"

namespace {

using deltahop::Bytes;
using deltahop::ByteSpan;
using deltahop::Message;

constexpr size_t kBasisBytes = 5000;
constexpr size_t kCommonBytes = 65536;
constexpr deltahop::CommonFileName kCommon{{1}, kCommonBytes};

class Listener : public deltahop::JobListener {
 public:
  void onOutput() override { signal(false); }
  void onDrain() override {}
  void onProgress(const deltahop::Progress&) override {}
  void onFinished(deltahop::Result<deltahop::JobReport>) override { signal(true); }
  void waitForEnd(deltahop::Job& job) {
    for (;;) {
      while (!job.readOutput().empty()) {
      }
      std::unique_lock lock(mutex_);
      if (finished_) return;
      changed_.wait(lock, [&] { return output_ || finished_; });
      output_ = false;
    }
  }

 private:
  void signal(bool finished) {
    const std::lock_guard lock(mutex_);
    output_ = true;
    finished_ |= finished;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool output_ = false;
  bool finished_ = false;
};

void put(Bytes& stream, Message type, ByteSpan payload) {
  if (!deltahop::writeFrame(stream, static_cast<uint8_t>(type), payload).ok()) std::abort();
}

void putTree(Bytes& stream, ByteSpan manifest) {
  deltahop::ManifestDecoder decoder;
  const bool readable = decoder.feed(manifest).ok();
  const uint32_t entries = decoder.entries();
  auto tree = decoder.finish(entries);
  Bytes payload;
  deltahop::Writer writer(payload);
  writer.u8(deltahop::kTreeComplete | deltahop::kTreeCommon);
  writer.varint(entries);
  writer.varint(readable && tree.ok() ? tree.value().totalFiles() : 0);
  writer.varint(readable && tree.ok() ? tree.value().totalBytes() : 0);
  writer.raw(readable && tree.ok() ? deltahop::manifestDigest(tree.value()) : deltahop::Digest{});
  deltahop::writeCommonFiles(payload, {&kCommon, 1});
  put(stream, Message::kTree, payload);
  payload.clear();
  deltahop::Packer packer(1);
  if (!packer.pack(payload, manifest).ok()) std::abort();
  put(stream, Message::kManifest, payload);
  put(stream, Message::kManifestEnd, {});
}

int removeEntry(const char* path, const struct stat*, int, struct FTW*) {
  return ::remove(path);
}

void writeFile(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

std::string readFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  ByteSpan input(data, size);
  const auto take = [&](size_t count) {
    const ByteSpan taken = input.first(std::min(count, input.size()));
    input = input.subspan(taken.size());
    return taken;
  };
  const auto takeLength = [&]() -> size_t {
    const ByteSpan bytes = take(2);
    return bytes.size() < 2 ? 0 : bytes[0] + size_t{256} * bytes[1];
  };
  Bytes stream;
  Bytes hello;
  deltahop::Writer writer(hello);
  writer.u32(deltahop::kTransferMagic);
  writer.u16(deltahop::kOldestTransferVersion);
  writer.u16(deltahop::kTransferVersion);
  writer.u8(0);
  put(stream, Message::kSenderHello, hello);
  putTree(stream, take(takeLength()));
  while (!input.empty()) {
    const uint8_t type = take(1)[0];
    const ByteSpan content = take(takeLength());
    Bytes payload(content.begin(), content.end());
    if (type == static_cast<uint8_t>(Message::kSmallFiles)) {
      const deltahop::Digest digest = deltahop::blake3(content);
      payload.assign(digest.begin(), digest.end());
      deltahop::Packer packer(1);
      if (!packer.pack(payload, content).ok()) std::abort();
    }
    if (type == static_cast<uint8_t>(Message::kSame)) {
      const Bytes basis(kBasisBytes, 'b');
      const deltahop::Digest digest = deltahop::blake3(deltahop::contentDigest(basis));
      payload.insert(payload.begin(), digest.begin(), digest.end());
    }
    put(stream, static_cast<Message>(type), payload);
  }

  std::string top =
      (::getenv("TMPDIR") != nullptr ? std::string(::getenv("TMPDIR")) : "/tmp") + "/deltahop-fuzz-XXXXXX";
  if (::mkdtemp(top.data()) == nullptr) std::abort();
  const std::string root = top + "/root";
  ::mkdir(root.c_str(), 0755);
  ::mkdir((root + "/dir").c_str(), 0755);
  ::mkdir((top + "/outside").c_str(), 0755);
  const std::string outside(kCommonBytes, 'o');
  writeFile(top + "/outside/file", outside);
  writeFile(root + "/basis", std::string(kBasisBytes, 'b'));
  (void)!::symlink("../outside", (root + "/dir/out").c_str());
  (void)!::symlink("../outside", (root + "/out").c_str());
  {
    Listener listener;
    const auto job = deltahop::makeReceiveJob({.rootPath = root, .common = {{top + "/outside/file", kCommon.id}}});
    job->start(listener);
    job->writeInput(std::move(stream));
    job->endInput();
    listener.waitForEnd(*job);
  }
  if (readFile(top + "/outside/file") != outside) std::abort();
  // Nothing else came to lie there either.
  if (::unlink((top + "/outside/file").c_str()) != 0 || ::rmdir((top + "/outside").c_str()) != 0) std::abort();
  ::nftw(top.c_str(), removeEntry, 32, FTW_DEPTH | FTW_PHYS);
  return 0;
}
