import { createHash } from 'node:crypto';
import { join, resolve } from 'node:path';
import type { Workload } from '../driver.js';
import { type MachineLayout, machineLayout } from '../machine/layout.js';

/**
 * What the QEMU driver keeps beside what every machine has (machine/layout.ts):
 *
 *     live/memory/ram      its memory: the very file that the machine works in
 *     live/memory/state    the rest of a machine that was saved: its devices
 *     machine/             of the QEMU that runs or did: its process number, monitors, and what it said
 */
export interface QemuLayout extends MachineLayout {
  /** The machine's name. */
  readonly id: string;
  /** Its network interface on this node. At most 15 characters, the kernel's bound. */
  readonly hostInterface: string;
  readonly ram: string;
  readonly state: string;
  readonly machine: string;
  readonly pidFile: string;
  readonly qmpSocket: string;
  /** Two fifos begin with this name (`.in`, `.out`): a monitor for a shell script. */
  readonly monitor: string;
  readonly output: string;
}

/** The layout of a workload. Pure: nothing has to exist. */
export function qemuLayout(workload: Pick<Workload, 'name' | 'path'>): QemuLayout {
  const path = resolve(workload.path);
  const digest = createHash('sha256').update(path).digest('hex');
  const layout = machineLayout(workload);
  const machine = join(path, 'machine');
  return {
    ...layout,
    id: `${workload.name}-${digest.slice(0, 8)}`,
    hostInterface: `dh${digest.slice(0, 12)}`,
    ram: join(layout.memory, 'ram'),
    state: join(layout.memory, 'state'),
    machine,
    pidFile: join(machine, 'pid'),
    qmpSocket: join(machine, 'qmp'),
    monitor: join(machine, 'monitor'),
    output: join(machine, 'output'),
  };
}
