#!/usr/bin/env bash
# Trees of the Linux source: the oldest and the newest version of linux-source-6.1 that this machine's Debian archive
# has, the newest with one directory renamed.
#
# Usage: linux-source.sh OUT      makes OUT/oldest, OUT/newest, OUT/renamed
set -euo pipefail
out=$1
package=linux-source-6.1
fail() {
  printf '%s\n' "$1" >&2
  exit 1
}

mapfile -t versions < <(apt-cache madison "$package" | awk -F'|' '/Packages/ { gsub(/ /, "", $2); print $2 }' | sort -u)
[ "${#versions[@]}" -ge 2 ] || fail "the Debian archive of this machine has ${#versions[@]} version(s) of $package: two are needed"
oldest=${versions[0]}
newest=${versions[0]}
for version in "${versions[@]}"; do
  if dpkg --compare-versions "$version" lt "$oldest"; then oldest=$version; fi
  if dpkg --compare-versions "$version" gt "$newest"; then newest=$version; fi
done

unpack() {
  mkdir -p "$out/.work"
  (cd "$out/.work" && apt-get -qq -o APT::Sandbox::User=root download "$package=$2") || fail "cannot download $package $2"
  dpkg-deb --fsys-tarfile "$out"/.work/*.deb | tar -xO --wildcards './usr/src/*.tar.xz' >"$out/.work/source.tar.xz"
  mkdir "$out/$1"
  tar -xJf "$out/.work/source.tar.xz" -C "$out/$1" --strip-components=1
  rm -rf "$out/.work"
}
unpack oldest "$oldest"
unpack newest "$newest"
cp -a "$out/newest" "$out/renamed"
mv "$out/renamed/drivers/net" "$out/renamed/drivers/network"
printf '%s to %s\n' "$oldest" "$newest" >"$out/versions"
