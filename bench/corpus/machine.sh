#!/usr/bin/env bash
# A kernel and an initial root for the virtual machine whose memory is a corpus: Debian's cloud kernel, and busybox that
# keeps a table of its own in memory, changes a part of it in each phase, and says `phase N` on the console.
#
# Usage: machine.sh OUT      makes OUT/kernel and OUT/initrd
set -euo pipefail
out=$1
work=$out/.work
mkdir -p "$work/root"/{bin,dev,proc,data}

kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }')
[ -n "$kernel" ] || {
  printf 'the Debian archive of this machine has no linux-image-cloud-amd64\n' >&2
  exit 1
}
(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$kernel" busybox-static)
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/packages"; done
cp "$work"/packages/boot/vmlinuz-* "$out/kernel"
cp "$work/packages/bin/busybox" "$work/root/bin/busybox"

cat >"$work/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
# busybox-static has no split.
awk 'BEGIN {
  srand(1)
  for (i = 0; i < 900000; i++)
    printf "%07d item-%09d %04d a note that all of them have\n", i, rand() * 1e9, rand() * 1e4 > sprintf("/data/part-%02d", i / 30000)
}'
for part in /data/part-*; do sort -k 2 "$part" >"$part.sorted"; done
phase=0
while true; do
  echo "phase $phase" >/dev/ttyS0
  phase=$((phase + 1))
  # A twentieth of the table at a time: changed in place, sorted anew, packed.
  n=0
  for part in /data/part-??; do
    n=$((n + 1))
    [ $((n % 20)) = $((phase % 20)) ] || continue
    sed "s/item-0*\([0-9]*\)7 /item-\1$phase /" "$part" >/data/new
    cat /data/new >"$part"
    sort -k 2 "$part" >"$part.sorted"
    gzip -c "$part" >/data/packed
  done
  rm -f /data/new
  sleep 4
done
INIT
chmod 755 "$work/root/init"
(cd "$work/root" && find . | "$work/packages/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) >"$out/initrd"
rm -rf "$work"
