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

prefix=${1:-/opt/deltahop/criu}
suite=sid
need=4.2

fail() {
  printf 'install-criu: %s\n' "$1" >&2
  exit 1
}

# Prints the version of the CRIU under a prefix; nothing if there is none that runs.
criu_version() {
  [ -x "$1/bin/criu" ] || return 0
  "$1/bin/criu" --version 2>/dev/null | awk '$1 == "Version:" { print $2 }'
}

new_enough() { [ -n "$1" ] && dpkg --compare-versions "$1" ge "$need"; }

if new_enough "$(criu_version "$prefix")"; then exit 0; fi
[ "$(id -u)" = 0 ] || fail "needs root to write $prefix"
command -v apt-get >/dev/null || fail 'needs apt: this is not a Debian machine; install CRIU 4.2 or later yourself'

mkdir -p "$(dirname "$prefix")"
# In the prefix's own parent, so that the last step is one rename.
work=$(mktemp -d "$(dirname "$prefix")/.criu-new.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
printf 'install-criu: fetching CRIU from suite %s\n' "$suite" >&2
unpack_from_suite "$work" "$suite" criu
program=$(cd "$work/new/root" && find . -path '*/sbin/criu' -type f -printf '%P' -quit)
wrap_program "$work" "$prefix" criu "$program"

# Checked where it was built, since the wrapper names the final place.
found=$(DELTAHOP_PREFIX_ROOT=$work/new/root criu_version "$work/new")
new_enough "$found" || fail "suite $suite gave CRIU '${found:-that does not run}', not $need or later"

rm -rf "$prefix"
mv -T "$work/new" "$prefix"
printf 'install-criu: CRIU %s is in %s\n' "$found" "$prefix" >&2
