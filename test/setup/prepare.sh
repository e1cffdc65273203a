#!/usr/bin/env bash
# Makes this machine ready for the tests, the demo and the benchmark: system packages, CRIU, QEMU, libvirt, npm packages, the build.
# Safe to run again at any time; when nothing is missing it takes a second. Says what it does on stderr only, so that
# `npm run demo -- --json` keeps stdout for itself.
#
# Usage: prepare.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
exec 1>&2

say() { printf 'prepare: %s\n' "$1"; }
fail() {
  printf 'prepare: failed: %s\n' "$1"
  exit 1
}

# Two of these at once would fight over apt, node_modules and the build.
mkdir -p "$project/build"
exec 9>"$project/build/.prepare.lock"
if ! flock --nonblock 9; then
  say 'waiting for another run of this script'
  flock 9
fi

packages=(
  # build
  cmake         # configures the engine, the addon and the testbed's link
  g++           # C++20
  ninja-build   # runs the builds that cmake-js does not
  # C++ tests
  doctest-dev     # the test framework, a header
  clang-format-19 # checks the layout of C++ sources
  # what a node needs
  lxc      # the containers, lxc-checkpoint
  iproute2 # CRIU's and the testbed's addresses, links and namespaces
  iptables # CRIU holds a frozen container's connections with iptables-restore and ip6tables-restore
  nftables # takes away what a CRIU that was killed holds them with
  perl-base # locks for a single process: tells in time that CRIU was killed
  # test images and checks
  mmdebstrap # builds the containers' root file system from Debian packages
  e2fsprogs  # mkfs.ext4: makes the virtual machine's disk of it
  kmod       # which kernel modules that machine needs, and in which order
  acl        # setfacl: trees with POSIX ACLs
  attr       # setfattr: trees with extended attributes
  libcap2-bin # setcap: trees with file capabilities
  xfsprogs   # mkfs.xfs: a file system that shares blocks
  rsync      # the other program that says whether two trees are equal
  spin       # checks the model of the hand-off
  openssh-client # sync over ssh, the client
  dropbear-bin   # and a server, in a package that starts none
)

install_packages() {
  local package missing=()
  for package in "${packages[@]}"; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then missing+=("$package"); fi
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  local options=(-qq -y --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120)
  # The lists may be absent, or too old to name files that the mirror still has: then one update, and once more.
  apt-get "${options[@]}" install "${missing[@]}" >"$log" 2>&1 && return 0
  apt-get -qq update >>"$log" 2>&1 || fail "apt-get update: $(tail -n 1 "$log")"
  apt-get "${options[@]}" install "${missing[@]}" >>"$log" 2>&1 || fail "cannot install ${missing[*]}: $(tail -n 1 "$log")"
}

install_node_modules() {
  # npm writes this file last, so it also tells a finished installation from one that was cut short.
  if [ node_modules/.package-lock.json -nt package-lock.json ]; then return 0; fi
  say 'installing npm packages'
  npm ci >"$log" 2>&1 || {
    grep 'npm error' "$log" | head -n 15
    fail 'npm ci (what it said is above)'
  }
}

build() {
  npm run --silent build >"$log" 2>&1 || {
    tail -n 40 "$log"
    fail 'npm run build (its last lines are above)'
  }
  # The testbed's programs are not part of the product, so they have builds of their own.
  build_apart test/testbed/link build/testbed
  build_apart test/testbed/probe build/probe
}

# Builds the CMake project in $1 into $2.
build_apart() {
  [ -f "$2/build.ninja" ] || cmake -S "$1" -B "$2" -G Ninja -DCMAKE_BUILD_TYPE=Release >"$log" 2>&1 ||
    fail "cmake of $1: $(tail -n 1 "$log")"
  cmake --build "$2" >"$log" 2>&1 || {
    tail -n 40 "$log"
    fail "build of $1 (its last lines are above)"
  }
}

cd "$project"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if [ "$(id -u)" != 0 ]; then
  say 'skipping system packages, CRIU, QEMU and libvirt: installing them needs root'
elif ! command -v apt-get >/dev/null; then
  say 'skipping system packages, CRIU, QEMU and libvirt: they come from apt, which this machine does not have'
else
  install_packages
  bash "$here/install-criu.sh" || fail 'CRIU is missing (the line above says why)'
  bash "$here/install-qemu.sh" || fail 'QEMU is missing (the line above says why)'
  bash "$here/install-libvirt.sh" || fail 'libvirt is missing (the line above says why)'
fi
command -v npm >/dev/null || fail 'Node.js 20.17 or later with npm is missing: install it and run this again'
install_node_modules
build
