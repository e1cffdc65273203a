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

prefix=${1:-/opt/deltahop/rsync}
suite=sid
need=3.5.0

fail() {
  printf 'install-rsync: %s\n' "$1" >&2
  exit 1
}

# Prints the version of the rsync under a prefix; nothing if there is none that runs.
rsync_version() {
  [ -x "$1/bin/rsync" ] || return 0
  "$1/bin/rsync" --version 2>/dev/null | awk 'NR == 1 { print $3 }'
}

new_enough() { [ -n "$1" ] && dpkg --compare-versions "$1" ge "$need"; }

if new_enough "$(rsync_version "$prefix")"; then exit 0; fi
[ "$(id -u)" = 0 ] || fail "needs root to write $prefix"
command -v apt-get >/dev/null || fail 'needs apt: this is not a Debian machine'

mkdir -p "$(dirname "$prefix")"
# In the prefix's own parent, so that the last step is one rename.
work=$(mktemp -d "$(dirname "$prefix")/.rsync-new.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
printf 'install-rsync: fetching rsync from suite %s\n' "$suite" >&2
unpack_from_suite "$work" "$suite" rsync
wrap_program "$work" "$prefix" rsync usr/bin/rsync

found=$(DELTAHOP_PREFIX_ROOT=$work/new/root rsync_version "$work/new")
new_enough "$found" || fail "suite $suite gave rsync '${found:-that does not run}', not $need or later"

rm -rf "$prefix"
mv -T "$work/new" "$prefix"
printf 'install-rsync: rsync %s is in %s\n' "$found" "$prefix" >&2
