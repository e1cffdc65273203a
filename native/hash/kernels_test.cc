#include "hash/kernels.h"

#include <set>
#include <string>

#include "base/test_support.h"
#include "hash/kernels_test_support.h"

namespace deltahop {
namespace {

TEST_CASE("kernels: names are unique, portable is last, and each can be put to use") {
  std::set<std::string> names;
  for (const Kernels& set : availableKernels()) names.insert(set.name);
  CHECK(names.size() == availableKernels().size());
  CHECK(std::string(availableKernels().back().name) == "portable");
  std::set<std::string> used;
  forEachKernels([&] { used.insert(kernels().name); });
  CHECK(used == names);
}

}  // namespace
}  // namespace deltahop
