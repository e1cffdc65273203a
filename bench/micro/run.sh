#!/usr/bin/env bash
# Builds and runs the micro-benchmarks of the engine's kernels. Installs libbenchmark on Debian if it is missing.
#
# Usage: run.sh [--json FILE] [--filter REGEX]
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build="$project/build/micro"
mkdir -p "$project/build"

if [ "$(dpkg-query -W -f '${db:Status-Status}' libbenchmark-dev 2>/dev/null)" != installed ]; then
  options=(-qq -y --no-install-recommends -o DPkg::Lock::Timeout=120)
  DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install libbenchmark-dev >&2 || {
    apt-get -qq update >&2
    DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install libbenchmark-dev >&2
  }
fi
# Release, as the addon is built.
cmake -S "$project/bench/micro" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release >"$build.log" 2>&1 || { cat "$build.log" >&2; exit 1; }
ninja --quiet -C "$build" >&2
exec "$build/micro_benchmarks" "$@"
