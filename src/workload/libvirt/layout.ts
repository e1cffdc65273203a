import { join, resolve } from 'node:path';
import type { Workload } from '../driver.js';
import { type MachineLayout, machineLayout } from '../machine/layout.js';

/**
 * What the libvirt driver keeps beside what every machine has (machine/layout.ts):
 *
 *     live/memory/saved    its memory and devices, as libvirt saved them last
 *     domain.xml           the domain as it was last defined here
 */
export interface LibvirtLayout extends MachineLayout {
  /** The domain's name, the same on every node: libvirt takes a saved one back under its own name only. */
  readonly domain: string;
  readonly saved: string;
  readonly definition: string;
  /** Where libvirt writes the process number of the domain's QEMU. */
  readonly pidFile: string;
}

/** The layout of a workload. Pure: nothing has to exist. */
export function libvirtLayout(workload: Pick<Workload, 'name' | 'path'>): LibvirtLayout {
  const layout = machineLayout(workload);
  const domain = `deltahop-${workload.name}`;
  return {
    ...layout,
    domain,
    saved: join(layout.memory, 'saved'),
    definition: join(resolve(workload.path), 'domain.xml'),
    pidFile: `/run/libvirt/qemu/${domain}.pid`,
  };
}
