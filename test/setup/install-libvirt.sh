#!/usr/bin/env bash
# Installs libvirt 10.10 or later with its QEMU driver, unless it is there: stable Debian's own is too old for what the
# libvirt driver needs (a disk whose tables and data are two files). It starts no daemon.
#
# Usage: install-libvirt.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/setup/mirror.sh
. "$here/mirror.sh"
# shellcheck source=test/setup/backports.sh
. "$here/backports.sh"

fail() {
  printf 'install-libvirt: %s\n' "$1" >&2
  exit 1
}

libvirt_version() {
  if [ -x /usr/sbin/libvirtd ]; then virsh --version 2>/dev/null; fi
}

install_from_backports libvirt 10.10 libvirt_version \
  libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients
