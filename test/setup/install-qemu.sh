#!/usr/bin/env bash
# Installs QEMU 10 or later for this machine's architecture, unless it is there: stable Debian's own is too old for what the
# qemu driver needs (shared memory left out of a saved state, by a file).
#
# Usage: install-qemu.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/setup/mirror.sh
. "$here/mirror.sh"
# shellcheck source=test/setup/backports.sh
. "$here/backports.sh"

fail() {
  printf 'install-qemu: %s\n' "$1" >&2
  exit 1
}

qemu_version() {
  if command -v qemu-img >/dev/null; then qemu-system-x86_64 --version 2>/dev/null | awk 'NR == 1 { print $4 }'; fi
}

install_from_backports QEMU 10.0 qemu_version qemu-system-x86 qemu-utils
