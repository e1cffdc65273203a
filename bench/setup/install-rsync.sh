#!/usr/bin/env bash
# Installs stock rsync, as new as the benchmark wants its peer, into a private prefix beside whatever the system has.
#
# Usage: install-rsync.sh [PREFIX]      default /opt/deltahop/rsync; the program is PREFIX/bin/rsync
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
setup=$here/../../test/setup
# shellcheck source=test/setup/mirror.sh
. "$setup/mirror.sh"
# shellcheck source=test/setup/private-prefix.sh
. "$setup/private-prefix.sh"

fail() {
  printf 'install-rsync: %s\n' "$1" >&2
  exit 1
}

# Prints the version of the rsync under a prefix; nothing if there is none that runs.
rsync_version() {
  [ -x "$1/bin/rsync" ] || return 0
  "$1/bin/rsync" --version 2>/dev/null | awk 'NR == 1 { print $3 }'
}

install_private rsync "${1:-/opt/deltahop/rsync}" 3.5.0 rsync_version
