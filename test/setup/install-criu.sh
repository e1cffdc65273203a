#!/usr/bin/env bash
# Installs CRIU 4.2 or later into a private prefix, beside whatever the system has.
#
# Why: on Linux 6.16 and later no older CRIU can dump a container that holds an inet socket, and stable Debian has
# only older ones. So the packages of Debian's suite sid are unpacked (not installed) with their own C library and
# loader; nothing outside the prefix changes. apt verifies every signature and checksum as it does for any package.
#
# Usage: install-criu.sh [PREFIX]      default /opt/deltahop/criu; the program is PREFIX/bin/criu
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/setup/mirror.sh
. "$here/mirror.sh"

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

mirror=$(debian_mirror) || fail "this machine's apt sources name no Debian archive to take suite $suite from"

mkdir -p "$(dirname "$prefix")"
# In the prefix's own parent, so that the last step is one rename.
work=$(mktemp -d "$(dirname "$prefix")/.criu-new.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/parts" "$work/new/root" "$work/new/bin"
printf 'deb %s %s %s main\n' "$(debian_signed_by)" "$mirror" "$suite" >"$work/apt/sources.list"
# An empty status file: to this apt nothing is installed, so what it fetches is the whole closure, C library included.
: >"$work/apt/status"
apt_options=(
  -o "Dir::Etc::sourcelist=$work/apt/sources.list" -o 'Dir::Etc::sourceparts=-' -o "Dir::Etc::preferencesparts=$work/apt/parts"
  -o "Dir::State::lists=$work/apt/lists" -o "Dir::State::status=$work/apt/status"
  -o "Dir::State::extended_states=$work/apt/extended_states"
  -o "Dir::Cache=$work/apt/cache" -o "Dir::Cache::archives=$work/apt/cache/archives"
  -o 'Acquire::Languages=none' -o 'APT::Install-Recommends=false' -o 'Debug::NoLocking=true' -o 'APT::Sandbox::User=root'
)
printf 'install-criu: fetching CRIU from suite %s\n' "$suite" >&2
apt-get -qq "${apt_options[@]}" update >&2 || fail "cannot read suite $suite from this machine's mirror"
mapfile -t closure < <(apt-get -qq "${apt_options[@]}" --simulate install criu 2>/dev/null | awk '$1 == "Inst" { print $2 }')
[ "${#closure[@]}" -gt 0 ] || fail "suite $suite has no installable criu for this architecture"
(cd "$work/apt/cache/archives" && apt-get -qq "${apt_options[@]}" download "${closure[@]}" >&2) ||
  fail "cannot download CRIU's packages"
for package in "$work"/apt/cache/archives/*.deb; do
  dpkg -x "$package" "$work/new/root" || fail "cannot unpack $(basename "$package")"
done

root=$work/new/root
find_one() { (cd "$root" && find . "$@" -printf '%P' -quit); }
program=$(find_one -path '*/sbin/criu' -type f)
loader=$(find_one -name 'ld-linux*.so.*' -type f)
library=$(dirname "$(find_one -name libc.so.6)")
[ -n "$program" ] && [ -n "$loader" ] && [ -n "$library" ] || fail 'the packages hold no criu program, loader or C library'
# Documents and locales are most of the files and none of the use.
rm -rf "$root/usr/share" "$root/var" "$root/etc"
cat >"$work/new/bin/criu" <<WRAPPER
#!/bin/sh
# Made by install-criu.sh: CRIU with the loader and the libraries it was built for.
root=$prefix/root
exec "\$root/$loader" --library-path "\$root/$library" "\$root/$program" "\$@"
WRAPPER
chmod 755 "$work/new/bin/criu"

# Checked where it was built, since the wrapper names the final place.
found=$("$root/$loader" --library-path "$root/$library" "$root/$program" --version 2>/dev/null | awk '$1 == "Version:" { print $2 }')
new_enough "$found" || fail "suite $suite gave CRIU '${found:-that does not run}', not $need or later"

rm -rf "$prefix"
mv -T "$work/new" "$prefix"
printf 'install-criu: CRIU %s is in %s\n' "$found" "$prefix" >&2
