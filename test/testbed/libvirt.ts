/** A libvirt for a node of its own, and in it the test's guest as somebody else would have made it. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GuestImages } from './guest.js';
import type { TestbedNode } from './node.js';

/**
 * Directories that its daemon can be told nothing of, put in their places in the node's own mount namespace; /run is the
 * node's own already. What a container's devices and cgroups do not allow is left out: a node of the testbed is no host.
 */
const script = `set -e
for of in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
  mkdir -p "$of" "$1$of"
  mount --bind "$1$of" "$of"
done
cat >/etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
CONF
exec libvirtd`;

const startLimitMs = 30_000;

/** Starts a node's libvirt and waits until it answers; it ends with the node. */
export async function startLibvirt(node: TestbedNode): Promise<void> {
  const daemon = node.spawn(['sh', '-c', script, 'sh', join(node.directory, 'libvirt')], { stdio: 'ignore' });
  for (const deadline = Date.now() + startLimitMs; ; await sleep(50)) {
    const { code, stderr } = await virsh(node, ['version']);
    if (code === 0) return;
    if (daemon.exitCode !== null || Date.now() > deadline) throw new Error(`no libvirt on ${node.name}: ${stderr}`);
  }
}

/** Runs virsh against a node's libvirt; any exit code is an answer. */
export function virsh(node: TestbedNode, args: readonly string[]): ReturnType<TestbedNode['exec']> {
  return node.exec(['virsh', '--quiet', '--connect', 'qemu:///system', ...args], { check: false });
}

/** Defines the guest with redis as a domain of a node, on a disk of its own. */
export async function defineGuest(
  node: TestbedNode,
  name: string,
  images: GuestImages,
  address: string,
): Promise<void> {
  const disk = join(node.directory, `${name}.qcow2`);
  await node.exec(['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', images.appRedis, '-F', 'qcow2', disk]);
  const path = join(node.directory, `${name}.xml`);
  await writeFile(
    path,
    `<domain type='qemu'>
  <name>${name}</name>
  <description>A guest that knows nothing of deltahop</description>
  <memory unit='MiB'>512</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>${images.kernel}</kernel>
    <initrd>${images.initrd}</initrd>
    <cmdline>root=/dev/vda ip=${address} quiet</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='${disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/><rom enabled='no'/></interface>
    <rng model='virtio'><backend model='random'>/dev/random</backend></rng>
    <serial type='pty'/>
    <graphics type='vnc' port='-1' autoport='yes'/>
  </devices>
</domain>
`,
  );
  const { code, stderr } = await virsh(node, ['define', path]);
  if (code !== 0) throw new Error(`the guest can not be defined: ${stderr}`);
}
