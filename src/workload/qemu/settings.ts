/** What `--set KEY=VALUE` (and the options that stand for it) may say of a virtual machine, read and checked. */
import { isAbsolute } from 'node:path';
import { parseNetwork, type ServiceNetwork } from '../network.js';
import { invalid, parseBytes, quoted } from '../settings.js';

/** The settings of a virtual machine. */
export interface QemuSettings {
  /** Its place in the network; null: it has no network. */
  network: ServiceNetwork | null;
  /** `memory`: in bytes. */
  memoryBytes: number;
  /** `cpus`: how many processors it sees. */
  cpus: number;
  /** `kernel`, `initrd`: files of the node it is added on, kept with it from then on; null: it boots by its firmware. */
  kernel: string | null;
  initrd: string | null;
  /** `append`: the kernel's command line. */
  append: string;
  /** `accelerator`: what runs it; pinned when it is added, since a state of one is none of the other. */
  accelerator: 'kvm' | 'tcg';
  /** `machine`, `cpu`: QEMU's machine type and processor model; pinned, so that every node builds the same machine. */
  machine: string;
  cpu: string;
}

const keys = ['ip', 'mac', 'bridge', 'memory', 'cpus', 'kernel', 'initrd', 'append', 'accelerator', 'machine', 'cpu'];

const pageBytes = 4096;
const defaults = { memory: '512M', cpus: '1', machine: 'pc-q35-10.0', cpu: 'qemu64-v1' };

/** The settings with what was not said filled in as it shall stay on every node. */
export function pinned(
  settings: Readonly<Record<string, string>>,
  accelerator: QemuSettings['accelerator'],
): Readonly<Record<string, string>> {
  return { ...defaults, accelerator, ...settings };
}

/**
 * Reads the settings of a virtual machine.
 *
 * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT naming the setting and what it accepts.
 */
export function parseSettings(name: string, settings: Readonly<Record<string, string>>): QemuSettings {
  for (const key of Object.keys(settings)) {
    if (!keys.includes(key)) throw invalid(key, `is not a setting of qemu services; there are ${keys.join(', ')}`);
  }
  const { ip, kernel, initrd, append = '', accelerator = 'tcg' } = settings;
  const rest = { ...defaults, ...settings };
  if (ip === undefined) {
    for (const key of ['mac', 'bridge']) {
      if (settings[key] !== undefined) throw invalid(key, 'means nothing without ip=ADDRESS/PREFIX');
    }
  }
  for (const [key, path] of Object.entries({ kernel, initrd })) {
    if (path !== undefined && !isAbsolute(path)) throw invalid(key, `must be an absolute path, not ${quoted(path)}`);
  }
  for (const [key, text] of Object.entries({ initrd, append: settings['append'] })) {
    if (text !== undefined && kernel === undefined) throw invalid(key, 'means nothing without kernel=FILE');
  }
  if (accelerator !== 'kvm' && accelerator !== 'tcg') {
    throw invalid('accelerator', `must be kvm or tcg, not ${quoted(accelerator)}`);
  }
  for (const key of ['machine', 'cpu'] as const) {
    // A comma would begin an option of QEMU's.
    if (!/^[A-Za-z0-9._+-]{1,64}$/.test(rest[key]))
      throw invalid(key, `must be a plain name, not ${quoted(rest[key])}`);
  }
  if (!/-\d+\.\d+$/.test(rest.machine)) {
    throw invalid('machine', `must be a type with a version, like ${defaults.machine}: others change with QEMU`);
  }
  const memoryBytes = parseBytes('memory', rest.memory);
  if (memoryBytes % pageBytes !== 0) throw invalid('memory', 'must be a multiple of 4096 bytes');
  const cpus = /^\d{1,3}$/.test(rest.cpus) ? Number(rest.cpus) : 0;
  if (cpus < 1) throw invalid('cpus', `must be a whole number of processors, not ${quoted(rest.cpus)}`);
  return {
    network: ip === undefined ? null : parseNetwork(name, ip, settings),
    memoryBytes,
    cpus,
    kernel: kernel ?? null,
    initrd: initrd ?? null,
    append,
    accelerator,
    machine: rest.machine,
    cpu: rest.cpu,
  };
}
