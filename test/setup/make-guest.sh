#!/usr/bin/env bash
# Builds the virtual machine that tests and demo run, once, from real Debian packages and the trees of make-rootfs.sh:
#   kernel, initrd     Debian's cloud kernel, and an initial root that holds the few modules it needs to find its disk
#   base.qcow2         the tree base/ as an ext4 file system
#   app-redis.qcow2    an overlay upon it: what app-redis/ has more, so that redis-server runs once it is booted
# The kernel's command line says `root=/dev/vda` and `ip=ADDRESS/PREFIX`; nothing else of the guest is configured.
#
# Usage: make-guest.sh [CACHE]     default /var/cache/deltahop; prints the directory that holds them
#
# The directory is named by what it is made of: a change there makes a new one, and the old ones are removed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${1:-/var/cache/deltahop}
# What virtio devices, the file system and the power button take beside what the kernel has built in.
modules=(virtio_pci virtio_blk virtio_net virtio_rng ext4 crc32c_generic button evdev)
disk=1G

fail() {
  printf 'make-guest: %s\n' "$1" >&2
  exit 1
}

trees=$(bash "$here/make-rootfs.sh" "$cache")
key=$({ cat "$here/make-guest.sh" && basename "$trees"; } | sha256sum | cut -c 1-16)
done_directory=$cache/guest-$key
if [ -d "$done_directory" ]; then
  printf '%s\n' "$done_directory"
  exit 0
fi
[ "$(id -u)" = 0 ] || fail 'needs root: a root file system has files of many owners'
command -v qemu-img >/dev/null || fail 'qemu-img is missing: run test/setup/prepare.sh'

exec 9>"$cache/.guest.lock"
flock 9
if [ -d "$done_directory" ]; then
  printf '%s\n' "$done_directory"
  exit 0
fi

work=$(mktemp -d "$cache/.guest-new.XXXXXX")
chmod 755 "$work"
trap 'umount "$work/mounted" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
log=$work/log

printf 'make-guest: building kernel and initrd\n' >&2
mkdir "$work/packages" "$work/out" "$work/mounted"
kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }')
[ -n "$kernel" ] || fail 'the Debian archive of this machine has no linux-image-cloud-amd64'
(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$kernel" busybox-static) >"$log" 2>&1 ||
  fail "cannot download $kernel and busybox-static: $(tail -n 1 "$log")"
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/packages"; done
cp "$work"/packages/boot/vmlinuz-* "$work/out/kernel"

root=$work/initrd
mkdir -p "$root"/{bin,dev,proc,sys,modules,disk}
cp "$work/packages/bin/busybox" "$root/bin/busybox"
version=$(basename "$work"/packages/lib/modules/*)
depmod -b "$work/packages" "$version"
# In the order in which they have to be loaded; modprobe of another root knows it.
for module in "${modules[@]}"; do
  modprobe -d "$work/packages" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/order"
[ -s "$work/order" ] || fail 'the kernel package has none of the modules'
while read -r path; do
  cp "$path" "$root/modules/"
  basename "$path" >>"$root/modules/order"
done <"$work/order"
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </modules/order
device=$(sed -n 's/.*\broot=\([^ ]*\).*/\1/p' /proc/cmdline)
until mount -t ext4 -o noatime "$device" /disk; do sleep 0.1; done
for part in proc sys dev; do mount -o move "/$part" "/disk/$part"; done
for part in run tmp; do mount -t tmpfs tmpfs "/disk/$part"; done
exec switch_root /disk /sbin/guest-init
INIT
chmod 755 "$root/init"
(cd "$root" && find . | LC_ALL=C sort | "$work/packages/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -n -6) >"$work/out/initrd"

# Both trees are the containers' own, and one program that takes the place of an init system.
cat >"$work/guest-init" <<'INIT'
#!/bin/sh
# The first process of the test guest: its address, then what /etc/guest holds, until the power button is pressed.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
address=$(sed -n 's/.*\bip=\([^ ]*\).*/\1/p' /proc/cmdline)
ip link set lo up
[ -z "$address" ] || { ip address add "$address" dev eth0 && ip link set eth0 up; }
for program in /etc/guest/*; do [ ! -x "$program" ] || "$program" >/dev/null 2>&1 & done
echo 'guest is up' >/dev/console
# The ACPI power button is an input device; a key event of any kind from it means: switch off.
until button=$(grep -lx 'Power Button' /sys/class/input/event*/device/name); do sleep 1; done
button=${button%/device/name}
dd "if=/dev/input/${button##*/}" of=/dev/null bs=24 count=1 2>/dev/null
kill -TERM -1
sleep 1
echo u >/proc/sysrq-trigger
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
INIT

# mkfs puts the tree into the image without a mount; the same UUIDs and times every time.
printf 'make-guest: building base\n' >&2
cp -a "$trees/base" "$work/base"
install -m 755 "$work/guest-init" "$work/base/usr/sbin/guest-init"
mkdir "$work/base/etc/guest"
truncate -s "$disk" "$work/base.raw"
mkfs.ext4 -q -F -L guest -U 6d2a1f0e-0d0c-4f5e-9b77-9c3a5f1b2c3d -J size=8 \
  -E lazy_itable_init=0,lazy_journal_init=0,hash_seed=6d2a1f0e-0d0c-4f5e-9b77-9c3a5f1b2c3d \
  -d "$work/base" "$work/base.raw" >"$log" 2>&1 || fail "mkfs.ext4: $(tail -n 1 "$log")"
qemu-img convert -f raw -O qcow2 "$work/base.raw" "$work/out/base.qcow2"

printf 'make-guest: building app-redis\n' >&2
cp --sparse=always "$work/base.raw" "$work/app.raw"
mount -o loop "$work/app.raw" "$work/mounted"
rsync -aHAX --exclude /usr/sbin/guest-init --exclude /etc/guest --exclude /lost+found --delete "$trees/app-redis/" "$work/mounted/"
cat >"$work/mounted/etc/guest/redis" <<'REDIS'
#!/bin/sh
exec /usr/bin/redis-server --bind 0.0.0.0 --protected-mode no --save '' --dir /var/lib/redis
REDIS
chmod 755 "$work/mounted/etc/guest/redis"
umount "$work/mounted"
# An overlay of app.raw that is then put upon the base holds just what tells the two apart.
qemu-img create -q -f qcow2 -b "$work/app.raw" -F raw "$work/out/app-redis.qcow2"
(cd "$work/out" && qemu-img rebase -f qcow2 -b base.qcow2 -F qcow2 app-redis.qcow2)

mv -T "$work/out" "$done_directory"
for old in "$cache"/guest-*; do
  # What a running test uses is left alone.
  if [ "$old" != "$done_directory" ] && [ -z "$(find "$old" -maxdepth 0 -mtime -1)" ]; then rm -rf "$old"; fi
done
printf '%s\n' "$done_directory"
