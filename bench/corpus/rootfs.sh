#!/usr/bin/env bash
# A Debian root file system in three states: as installed, after packages were added and others installed again, and
# after python3-opencv came on top.
#
# Usage: rootfs.sh OUT      makes OUT/base, OUT/upgraded, OUT/opencv
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/setup/mirror.sh
. "$here/../../test/setup/mirror.sh"
out=$1
suite=bookworm

mirror=$(debian_mirror) || {
  printf "this machine's apt sources name no Debian archive\n" >&2
  exit 1
}
# The host's apt works in the guest: mmdebstrap gives the hooks its configuration and the tree.
apt='DEBIAN_FRONTEND=noninteractive APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq -y -o APT::Install-Recommends=false -o DPkg::Chroot-Directory="$1" install'
mmdebstrap --mode=root --variant=apt --format=directory --skip=cleanup/apt/lists --include=systemd,procps,perl \
  --customize-hook="cp -a --one-file-system \"\$1\" '$out/base'" \
  --customize-hook="$apt --reinstall coreutils perl perl-base perl-modules-5.36 systemd libc6 libssl3 tzdata" \
  --customize-hook="$apt git" \
  --customize-hook="cp -a --one-file-system \"\$1\" '$out/upgraded'" \
  --customize-hook="$apt python3-opencv" \
  "$suite" "$out/opencv" "deb $(debian_signed_by) $mirror $suite main" >"$out/log" 2>&1 || {
  grep -m 1 '^E:' "$out/log" >&2 || tail -n 1 "$out/log" >&2
  exit 1
}
# Sockets and device nodes of the building itself are no part of it.
for tree in base upgraded opencv; do rm -rf "$out/$tree"/{dev,proc,sys,run}/* "$out/$tree"/var/cache/apt/archives/*.deb; done
