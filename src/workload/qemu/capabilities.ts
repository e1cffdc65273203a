/** What this machine has of what virtual machines need, and what two nodes must have in common. */
import { arch, release } from 'node:os';
import { isDeltahopError } from '../../errors.js';
import { accelerator } from '../accelerator.js';
import { runCommand } from '../command.js';
import type { Capability, MachineFacts } from '../driver.js';
import { compareVersions } from '../version.js';
import type { QemuSettings } from './settings.js';

const limitMs = 10_000;
/** The first that leaves shared memory out of a state that it saves into a file. */
const needMajor = 10;
const installRemedy = 'install QEMU 10 or later, e.g. apt-get install -t bookworm-backports qemu-system-x86 qemu-utils';

/** How a service's machine is run, for its owner. */
export function acceleratorNote(settings: QemuSettings): string {
  if (settings.accelerator === 'kvm') return 'runs by KVM';
  const { name, why } = accelerator();
  return `runs without KVM (tcg), some ten times slower: ${name === 'tcg' ? why : 'accelerator=tcg is set'}`;
}

/** What this machine has, each tried rather than looked up. */
export async function qemuCapabilities(): Promise<Capability[]> {
  const [version, images] = await Promise.all([qemuVersion('qemu-system-x86_64'), qemuVersion('qemu-img')]);
  const { name, why } = accelerator();
  return [
    rootFinding(),
    versionFinding('qemu', 'qemu-system-x86_64', version),
    versionFinding('qemu-img', 'qemu-img', images),
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
  return {
    architecture: arch(),
    kernel: release(),
    qemu: (await qemuVersion('qemu-system-x86_64')) ?? 'none',
    accelerator: accelerator().name,
  };
}

/** What stands against going on here with what ran on a machine with these facts, and what does not. */
export async function differences(source: MachineFacts, settings: QemuSettings): Promise<Capability[]> {
  const here = await machineFacts();
  const found: Capability[] = [];
  const note = (name: string, ok: boolean, detail: string, remedy: string): void => {
    found.push({ name, ok, detail, remedy: ok ? null : remedy });
  };
  const [theirs = 'unknown', ours = 'unknown'] = [source['architecture'], here['architecture']];
  note(
    'architecture',
    theirs === ours,
    `processor ${theirs} there, ${ours} here`,
    'use a node of the same architecture',
  );
  const [theirQemu = 'none', ourQemu = 'none'] = [source['qemu'], here['qemu']];
  const newer = compareVersions(ourQemu, theirQemu) >= 0;
  note('qemu version', newer, `${theirQemu} there, ${ourQemu} here`, `install QEMU ${theirQemu} or later here`);
  const runs = settings.accelerator === 'tcg' || here['accelerator'] === 'kvm';
  note(
    'accelerator here',
    runs,
    `it runs by ${settings.accelerator}, this node has ${here['accelerator']}`,
    'use a node that has KVM',
  );
  note('kernel', true, `Linux ${source['kernel'] ?? 'unknown'} there, ${here['kernel']} here`, '');
  return found;
}

/** The version that a program of QEMU's says it has; null if it is missing. */
async function qemuVersion(program: string): Promise<string | null> {
  try {
    const { stdout } = await runCommand([program, '--version'], { limitMs });
    return /version (\d+\.\d+(\.\d+)?)/.exec(stdout)?.[1] ?? null;
  } catch (error) {
    if (isDeltahopError(error, 'DELTAHOP_E_TOOL_MISSING')) return null;
    throw error;
  }
}

function rootFinding(): Capability {
  if (process.geteuid?.() === 0) return { name: 'root', ok: true, detail: 'the agent is root', remedy: null };
  return {
    name: 'root',
    ok: false,
    detail: 'the agent is not root',
    remedy: 'start it as root: tap interfaces need it',
  };
}

function versionFinding(name: string, program: string, version: string | null): Capability {
  if (version === null) return { name, ok: false, detail: `${program} is missing`, remedy: installRemedy };
  const ok = Number.parseInt(version, 10) >= needMajor;
  return { name, ok, detail: `version ${version}`, remedy: ok ? null : installRemedy };
}
