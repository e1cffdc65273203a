#!/usr/bin/env bash
# Builds the engine and its C++ tests under ThreadSanitizer and runs them: what its threads share, they share under locks.
# Not part of `npm test`, because it is a build of its own that takes minutes.
#
# Usage: tsan.sh [ARGUMENTS OF DOCTEST]
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="$project/build/tsan"
mkdir -p "$build"
cmake -S "$project" -B "$build" -G Ninja -DDELTAHOP_TESTS=ON -DDELTAHOP_SANITIZE=thread -DCMAKE_BUILD_TYPE=None \
  '-DCMAKE_C_FLAGS=-O1 -g1' '-DCMAKE_CXX_FLAGS=-O1 -g1' >"$build/configure.log" || { cat "$build/configure.log" >&2; exit 1; }
ninja --quiet -C "$build" deltahop_engine_tests
# g++ 12's runtime does not find its shadow memory where newer kernels put things at random: -R, as they were.
exec setarch -R "$build/native/deltahop_engine_tests" "$@"
