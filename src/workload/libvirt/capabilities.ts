/** What this machine has of what libvirt's domains need, and what two nodes must have in common. */
import { arch, release } from 'node:os';
import { isDeltahopError } from '../../errors.js';
import { accelerator } from '../accelerator.js';
import { type CommandResult, runCommand } from '../command.js';
import type { Capability, MachineFacts } from '../driver.js';
import { compareVersions } from '../version.js';
import type { LibvirtSettings } from './settings.js';
import { libvirtUri } from './virsh.js';

const limitMs = 10_000;
/** The first in whose domains a layer's tables and data are two files (`<dataStore>`). */
const needLibvirt = '10.10';
const installRemedy = `install libvirt ${needLibvirt} or later, e.g. apt-get install -t bookworm-backports libvirt-daemon-system`;

/** How a service's machine is run, for its owner. */
export function acceleratorNote({ domain }: LibvirtSettings): string {
  if (domain.type === 'kvm') return 'runs by KVM';
  const { name, why } = accelerator();
  return `runs without KVM (tcg), some ten times slower: ${name === 'tcg' ? why : 'its domain is of type qemu'}`;
}

/** What this machine has, each tried rather than looked up. */
export async function libvirtCapabilities(): Promise<Capability[]> {
  const [client, images] = await Promise.all([said(['virsh', '--version']), said(['qemu-img', '--version'])]);
  const { name, why } = accelerator();
  const hasImages = images?.exitCode === 0;
  return [
    {
      name: 'root',
      ok: process.geteuid?.() === 0,
      detail: `the agent is ${process.geteuid?.() === 0 ? '' : 'not '}root`,
      remedy: process.geteuid?.() === 0 ? null : 'start it as root: it shares files with the libvirt of the system',
    },
    ...(client === null
      ? [{ name: 'libvirt', ok: false, detail: 'virsh is missing', remedy: installRemedy }]
      : await serverFindings()),
    {
      name: 'qemu-img',
      ok: hasImages,
      detail: hasImages ? (/version (\S+)/.exec(images.stdout)?.[1] ?? 'is there') : 'qemu-img is missing',
      remedy: hasImages ? null : 'install qemu-utils',
    },
    {
      name: 'accelerator',
      ok: true,
      detail: name === 'kvm' ? `kvm: ${why}` : `tcg, some ten times slower: ${why}`,
      remedy: null,
    },
  ];
}

/** The facts of this machine, for {@link differences} at another. */
export async function machineFacts(): Promise<MachineFacts> {
  const { libvirt, qemu } = await versions();
  return { architecture: arch(), kernel: release(), libvirt, qemu, accelerator: accelerator().name };
}

/** What stands against going on here with what ran on a machine with these facts, and what does not. */
export async function differences(source: MachineFacts, settings: LibvirtSettings): Promise<Capability[]> {
  const here = await machineFacts();
  const finding = (name: string, ok: boolean, detail: string, remedy: string): Capability => ({
    name,
    ok,
    detail,
    remedy: ok ? null : remedy,
  });
  const pair = (name: string): [string, string] => [source[name] ?? 'unknown', here[name] ?? 'unknown'];
  const found: Capability[] = [];
  const [theirs, ours] = pair('architecture');
  found.push(
    finding('architecture', theirs === ours, `processor ${theirs} there, ${ours} here`, 'use a node of the same one'),
  );
  for (const program of ['qemu', 'libvirt']) {
    const [there, here] = pair(program);
    const newer = compareVersions(here, there) >= 0;
    found.push(
      finding(`${program} version`, newer, `${there} there, ${here} here`, `install ${program} ${there} or later here`),
    );
  }
  const { type } = settings.domain;
  const runs = type === 'qemu' || here['accelerator'] === 'kvm';
  const detail = `the domain is of type ${type}, this node has ${here['accelerator']}`;
  found.push(finding('accelerator here', runs, detail, 'use a node that has KVM'));
  return found;
}

async function serverFindings(): Promise<Capability[]> {
  const { libvirt, qemu, problem } = await versions();
  if (problem !== null) {
    const remedy = 'start libvirt’s daemon (libvirtd or virtqemud), with its QEMU driver';
    return [{ name: 'libvirt', ok: false, detail: problem, remedy }];
  }
  const ok = compareVersions(libvirt, needLibvirt) >= 0;
  return [{ name: 'libvirt', ok, detail: `version ${libvirt}, with QEMU ${qemu}`, remedy: ok ? null : installRemedy }];
}

async function versions(): Promise<{ libvirt: string; qemu: string; problem: string | null }> {
  const asked = await said(['virsh', '--quiet', '--connect', libvirtUri, 'version', '--daemon']);
  const version = (pattern: RegExp): string => pattern.exec(asked?.stdout ?? '')?.[1] ?? 'none';
  const qemu = version(/hypervisor: QEMU (\d+(?:\.\d+)*)/);
  const libvirt = version(/against daemon: (\d+(?:\.\d+)*)/);
  if (asked?.exitCode === 0 && qemu !== 'none') return { libvirt, qemu, problem: null };
  return { libvirt, qemu, problem: asked?.stderr.trim().split('\n').at(-1) || 'it does not answer' };
}

async function said(argv: readonly string[]): Promise<CommandResult | null> {
  try {
    return await runCommand(argv, { limitMs });
  } catch (error) {
    if (isDeltahopError(error, 'DELTAHOP_E_TOOL_MISSING')) return null;
    throw error;
  }
}
