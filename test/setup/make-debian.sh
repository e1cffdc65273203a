#!/usr/bin/env bash
# Builds the reference machine, once, from real Debian packages: a bookworm with systemd, Debian's own kernel and what a node
# needs, as a directory, for test/debian.sh to boot.
#
# Usage: make-debian.sh [CACHE]     default /var/cache/deltahop; prints the directory that holds it
#
# The directory is named by this script's content: a change here makes a new one, and the old ones are removed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/setup/mirror.sh
. "$here/mirror.sh"
cache=${1:-/var/cache/deltahop}
packages=(
  linux-image-amd64 initramfs-tools systemd-sysv udev dbus # the machine
  lxc iproute2 iptables nftables perl-base apparmor         # what a node needs: prepare.sh says what for
  e2fsprogs kmod acl attr libcap2-bin xfsprogs rsync procps # what tests need
  openssh-client dropbear-bin strace
)

fail() {
  printf 'make-debian: %s\n' "$1" >&2
  exit 1
}

key=$(cat "$here/make-debian.sh" "$here/mirror.sh" | sha256sum | cut -c 1-16)
done_directory=$cache/debian-$key
if [ ! -d "$done_directory" ]; then
  [ "$(id -u)" = 0 ] || fail 'needs root: a root file system has files of many owners'
  mirror=$(debian_mirror) || fail "this machine's apt sources name no Debian archive"
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/.debian-new.XXXXXX")
  chmod 755 "$work"
  trap 'rm -rf --one-file-system "$work"' EXIT
  options=(--mode=root --variant=essential --format=directory "--include=$(IFS=,; echo "${packages[*]}")")
  for part in doc man locale; do options+=("--dpkgopt=path-exclude=/usr/share/$part/*"); done
  printf 'make-debian: building a Debian with its kernel\n' >&2
  mmdebstrap "${options[@]}" bookworm "$work/root" "deb $(debian_signed_by) $mirror bookworm main" >"$work/log" 2>&1 ||
    fail "mmdebstrap failed: $(grep -m 1 '^E:' "$work/log" || tail -n 1 "$work/log")"
  rm -rf "$work"/root/var/{lib/apt/lists,cache/apt}/*
  : >"$work/root/etc/resolv.conf"
  printf 'debian\n' >"$work/root/etc/hostname"
  printf '/dev/vda / ext4 noatime 0 1\n' >"$work/root/etc/fstab"
  # deltahop brings its own network, and nothing of LXC's is wanted but its programs.
  for unit in lxc-net lxc lxc-monitord; do ln -sf /dev/null "$work/root/etc/systemd/system/$unit.service"; done
  mv -T "$work" "$done_directory"
  trap - EXIT
  for old in "$cache"/debian-*; do
    if [ "$old" != "$done_directory" ] && [ -z "$(find "$old" -maxdepth 0 -mtime -1)" ]; then
      rm -rf --one-file-system "$old"
    fi
  done
fi
printf '%s\n' "$done_directory"
