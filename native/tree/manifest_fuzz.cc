// Any bytes as a manifest: refused, or a tree that is written again as the same tree.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "tree/manifest.h"
#include "tree/tree_plan.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  deltahop::ManifestDecoder decoder;
  if (!decoder.feed({data, size}).ok()) return 0;
  const uint32_t entries = decoder.entries();
  auto tree = decoder.finish(entries);
  if (!tree.ok()) return 0;
  deltahop::Bytes written;
  deltahop::ManifestEncoder encoder(tree.value());
  while (encoder.next(written, SIZE_MAX)) {
  }
  deltahop::ManifestDecoder rereader;
  if (!rereader.feed(written).ok()) std::abort();
  auto reread = rereader.finish(entries);
  if (!reread.ok()) std::abort();
  if (deltahop::manifestDigest(reread.value()) != deltahop::manifestDigest(tree.value())) std::abort();
  const deltahop::TreePlan plan = deltahop::planTree(tree.value(), reread.value(), false);
  if (!plan.deletes.empty()) std::abort();
  return 0;
}
