#!/usr/bin/env bash
# Installs CRIU 4.2 or later into a private prefix, beside whatever the system has.
#
# Why: on Linux 6.16 and later no older CRIU can dump a container that holds an inet socket, and stable Debian has
# only older ones. So the packages of Debian's suite sid are unpacked into it (private-prefix.sh says how).
#
# Usage: install-criu.sh [PREFIX]      default /opt/deltahop/criu; the program is PREFIX/bin/criu
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/setup/mirror.sh
. "$here/mirror.sh"
# shellcheck source=test/setup/private-prefix.sh
. "$here/private-prefix.sh"

fail() {
  printf 'install-criu: %s\n' "$1" >&2
  exit 1
}

# Prints the version of the CRIU under a prefix; nothing if there is none that runs.
criu_version() {
  [ -x "$1/bin/criu" ] || return 0
  "$1/bin/criu" --version 2>/dev/null | awk '$1 == "Version:" { print $2 }'
}

install_private criu "${1:-/opt/deltahop/criu}" 4.2 criu_version
