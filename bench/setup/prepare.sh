#!/usr/bin/env bash
# Makes this machine ready for the benchmark: what the tests need, stock rsync in a private prefix, and the programs whose
# disks and memory are the corpora. Safe to run again at any time. Says what it does on stderr only.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec 1>&2

fail() {
  printf 'bench/prepare: %s\n' "$1"
  exit 1
}

bash "$here/../../test/setup/prepare.sh"
[ "$(id -u)" = 0 ] || fail 'the benchmark needs root (network namespaces, owners of files)'
command -v apt-get >/dev/null || fail 'the corpora are made of Debian packages, and this machine has no apt'
bash "$here/install-rsync.sh"

packages=(
  python3     # an in-memory database to dump; the database on the disks
  redis-tools # redis to dump (it carries the server's program, but no service) and its benchmark
)
missing=()
for package in "${packages[@]}"; do
  if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then missing+=("$package"); fi
done
if [ "${#missing[@]}" -gt 0 ]; then
  printf 'bench/prepare: installing %s\n' "${missing[*]}"
  # Whatever cannot be installed costs the cells that need it, which they say themselves.
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 \
    install "${missing[@]}" >/dev/null || printf 'bench/prepare: cannot install %s\n' "${missing[*]}"
fi
