#!/usr/bin/env bash
# Builds the root file systems that tests, demo and benchmark run, once, from real Debian packages:
#   base       a minimal Debian bookworm: the guest OS and nothing else
#   app-redis  the very same tree with redis-server and what it depends on installed by apt
# so that what tells the two apart is the application alone, as an app layer wants it.
#
# Usage: make-rootfs.sh [CACHE]     default /var/cache/deltahop; prints the directory that holds base/ and app-redis/
#
# The directory is named by this script's content: a change here makes a new one, and the old ones are removed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/setup/mirror.sh
. "$here/mirror.sh"

cache=${1:-/var/cache/deltahop}
suite=bookworm
base_packages=(
  iproute2 # the container sets its own address
  procps   # ps, and pidof for a probe
)
redis_packages=(redis-server)

fail() {
  printf 'make-rootfs: %s\n' "$1" >&2
  exit 1
}

key=$(cat "$here/make-rootfs.sh" "$here/mirror.sh" | sha256sum | cut -c 1-16)
done_directory=$cache/rootfs-$key
if [ -d "$done_directory" ]; then
  printf '%s\n' "$done_directory"
  exit 0
fi
[ "$(id -u)" = 0 ] || fail 'needs root: a root file system has files of many owners'
command -v mmdebstrap >/dev/null || fail 'mmdebstrap is missing: run test/setup/prepare.sh'

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [ -d "$done_directory" ]; then
  printf '%s\n' "$done_directory"
  exit 0
fi

mirror=$(debian_mirror) || fail "this machine's apt sources name no Debian archive"
source_line="deb $(debian_signed_by) $mirror $suite main"
log=$cache/.rootfs.log
work=$(mktemp -d "$cache/.rootfs-new.XXXXXX")
chmod 755 "$work"
trap 'umount "$work/app-redis/proc" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT

# Nothing in a guest of ours reads these, and they are half of the files.
no_documents=(
  'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' 'path-exclude=/usr/share/info/*'
  'path-exclude=/usr/share/locale/*' 'path-exclude=/usr/share/lintian/*' 'path-exclude=/usr/share/bug/*'
)
options=(--mode=root --variant=essential --format=directory "--include=$(IFS=,; echo "${base_packages[*]}")")
options+=('--aptopt=Acquire::Languages "none"')
for option in "${no_documents[@]}"; do options+=("--dpkgopt=$option"); done

printf 'make-rootfs: building base\n' >&2
mmdebstrap "${options[@]}" "$suite" "$work/base" "$source_line" >"$log" 2>&1 ||
  fail "mmdebstrap failed: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")"

# mmdebstrap leaves the host's name server and name in the tree: nothing of this machine belongs to a guest.
: >"$work/base/etc/resolv.conf"
printf 'guest\n' >"$work/base/etc/hostname"

printf 'make-rootfs: building app-redis\n' >&2
cp -a "$work/base" "$work/app-redis"
app=$work/app-redis
# A maintainer script must not start the service in here, on the host's network.
printf '#!/bin/sh\nexit 101\n' >"$app/usr/sbin/policy-rc.d"
chmod 755 "$app/usr/sbin/policy-rc.d"
mount -t proc proc "$app/proc"
mkdir -p "$app/var/lib/apt/lists/partial" "$app/var/cache/apt/archives/partial"
# The host's apt works on the guest's files: the guest needs no apt of its own. DPkg::Chroot-Directory makes dpkg and
# every maintainer script run inside.
guest_apt=(
  apt-get -qq -y -o "Dir=$app" -o "Dir::State::status=$app/var/lib/dpkg/status" -o "DPkg::Chroot-Directory=$app"
  -o 'APT::Sandbox::User=root' -o 'APT::Install-Recommends=false' -o 'Dpkg::Use-Pty=0'
)
{
  "${guest_apt[@]}" update &&
    DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true LC_ALL=C "${guest_apt[@]}" install "${redis_packages[@]}"
} >"$log" 2>&1 || fail "cannot install ${redis_packages[*]}: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")"
umount "$app/proc"
rm -f "$app/usr/sbin/policy-rc.d"

for tree in "$work/base" "$app"; do
  rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/* "$tree"/var/log/{dpkg.log,apt,bootstrap.log,alternatives.log} \
    "$tree"/var/cache/debconf/*-old "$tree"/var/lib/dpkg/*-old "$tree"/tmp/* "$tree"/run/adduser "$tree"/var/cache/ldconfig/aux-cache
done
[ -x "$app/usr/bin/redis-server" ] || fail 'redis-server is not where it should be in app-redis'

rm -f "$log"
mv -T "$work" "$done_directory"
trap - EXIT
for old in "$cache"/rootfs-* "$cache"/.rootfs-new.*; do
  # A tree that a running testbed uses as an overlay's lower directory survives its removal only until it is unmounted,
  # so what was touched in the last day is left alone.
  if [ -d "$old" ] && [ "$old" != "$done_directory" ] && [ -z "$(find "$old" -maxdepth 0 -mtime -1)" ]; then
    rm -rf --one-file-system "$old"
  fi
done
printf '%s\n' "$done_directory"
