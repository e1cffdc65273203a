// The benchmarks: every kernel of every set that this machine can run, and what is built on them.
#pragma once

namespace deltahop::micro {

/// Registers all of them with libbenchmark, each named KERNEL/SET.
void registerKernels();

}  // namespace deltahop::micro
