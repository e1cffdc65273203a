#!/usr/bin/env bash
# A 4 GiB ext4 disk before and after an upgrade of packages and writes to a database, raw and as qcow2.
#
# Usage: disk.sh ROOTFS OUT      ROOTFS as rootfs.sh makes it; makes OUT/{raw,qcow2}-{old,new}/disk
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rootfs=$1
out=$2
mounted=$out/.mounted
trap 'umount "$mounted" 2>/dev/null || true' EXIT

mkdir -p "$out"/{raw,qcow2}-{old,new} "$mounted"
disk=$out/raw-old/disk
truncate -s 4G "$disk"
mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 -d "$rootfs/base" "$disk"
mount -o loop "$disk" "$mounted"
/usr/bin/python3 "$here/database.py" create "$mounted/var/lib/database.sqlite"
/usr/bin/python3 "$here/database.py" log "$mounted/var/log/application.log" 0 400000
umount "$mounted"

cp --sparse=always "$disk" "$out/raw-new/disk"
mount -o loop "$out/raw-new/disk" "$mounted"
# As dpkg does it: each changed file is written under another name and renamed.
/opt/deltahop/rsync/bin/rsync -aHAX --numeric-ids "$rootfs/upgraded/" "$mounted/"
/usr/bin/python3 "$here/database.py" update "$mounted/var/lib/database.sqlite"
/usr/bin/python3 "$here/database.py" log "$mounted/var/log/application.log" 400000 20000
umount "$mounted"
rmdir "$mounted"
for which in old new; do qemu-img convert -O qcow2 "$out/raw-$which/disk" "$out/qcow2-$which/disk"; done
