#!/usr/bin/env bash
# Runs tests on the reference machine whatever this one is: boots Debian 12 with its own kernel (cgroup v2, AppArmor, memory
# tracking: none of which this machine may have) in QEMU and runs test/run.mjs in it, on this checkout as it is built.
# Not part of `npm test`: without KVM it takes many times as long.
#
# Usage: debian.sh [ARGUMENTS OF test/run.mjs]     default: --only integration lxc-driver
# DELTAHOP_DEBIAN_COMMAND in the environment: another command, run by bash in the checkout.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ "$#" -gt 0 ] || set -- --only integration lxc-driver
command=${DELTAHOP_DEBIAN_COMMAND:-"node test/run.mjs $(printf '%q ' "$@")"}
made=$(bash "$project/test/setup/make-debian.sh")
trees=$(bash "$project/test/setup/make-rootfs.sh")
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT

root=$work/root
cp -a "$made/root" "$root"
place=$root/srv/deltahop
mkdir -p "$place/build" "$root/opt/deltahop" "$root/var/cache/deltahop"
rsync -a --exclude /.git --exclude /build "$project/" "$place/"
rsync -a --exclude '*.o' "$project/build/addon" "$project/build/testbed" "$project/build/probe" "$place/build/"
cp -a /opt/deltahop/criu "$root/opt/deltahop/"
cp -a "$trees" "$root/var/cache/deltahop/"
install -m 755 "$(command -v node)" "$root/usr/bin/node"
printf '%s\n' "$command" >"$place/command"
cat >"$root/etc/systemd/system/deltahop-test.service" <<'UNIT'
[Unit]
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
WorkingDirectory=/srv/deltahop
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/bin/bash command
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
[Install]
WantedBy=default.target
UNIT
mkdir -p "$root/etc/systemd/system/default.target.wants"
ln -s ../deltahop-test.service "$root/etc/systemd/system/default.target.wants/"
truncate -s 8G "$work/disk"
mkfs.ext4 -q -F -d "$root" "$work/disk"
rm -rf --one-file-system "$root"

# 3DNow!, which QEMU knows and no processor has had for long, is what a test takes for a feature of none.
accelerator=(-accel 'tcg,thread=multi' -cpu 'max,3dnow=off,3dnowext=off')
if [ -w /dev/kvm ] && grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo; then accelerator=(-accel kvm -cpu host); fi
# The first serial line is the kernel's and systemd's, the second the tests'.
qemu-system-x86_64 "${accelerator[@]}" -machine q35 -smp 2 -m 3G -no-reboot -display none -monitor none \
  -kernel "$made"/root/boot/vmlinuz-* -initrd "$made"/root/boot/initrd.img-* -append 'root=/dev/vda rw console=ttyS0 quiet' \
  -drive "file=$work/disk,if=virtio,format=raw,cache=unsafe" -device virtio-rng-pci -nic none \
  -serial "file:$work/console" -serial stdio </dev/null | stdbuf -oL tr -d '\r' | tee "$work/output"
if ! tail -n 1 "$work/output" | grep -q '[0-9] passed, 0 failed' && [ -z "${DELTAHOP_DEBIAN_COMMAND:-}" ]; then
  printf 'debian.sh: failed; the end of the console:\n' >&2
  tail -n 20 "$work/console" >&2
  exit 1
fi
