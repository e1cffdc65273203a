#!/usr/bin/env bash
# Lays out every C++ file; with --check only says which files are not laid out.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=(-i)
[[ "${1:-}" == --check ]] && mode=(--dry-run --Werror)
git ls-files -z --cached --others --exclude-standard '*.h' '*.cc' '*.cpp' | xargs -0 -r clang-format-19 "${mode[@]}"
