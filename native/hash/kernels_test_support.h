// For tests of what kernels do: once with each set that this machine can run.
#pragma once

#include <doctest/doctest.h>

#include <string>

#include "hash/kernels.h"

namespace deltahop {

/// Calls `test` with each set of kernels in use, then goes back to the one before.
template <typename Test>
void forEachKernels(const Test& test) {
  const Kernels& before = kernels();
  for (const Kernels& set : availableKernels()) {
    const std::string name = set.name;
    CAPTURE(name);
    useKernels(set);
    test();
  }
  useKernels(before);
}

}  // namespace deltahop
