/** The disks of a virtual machine, as qemu-img sees them. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../testbed/command.js';
import type { Testbed } from '../testbed/testbed.js';

/** What qemu-img finds wrong with the service's own disk at either node. */
export async function unsoundDisks(testbed: Testbed, service: string): Promise<string[]> {
  const found: string[] = [];
  for (const node of testbed.nodes) {
    const disk = join(node.stateDirectory, 'services', service, 'workload/live/disk/instance.qcow2');
    if (statSync(disk, { throwIfNoEntry: false }) === undefined) continue;
    const { code, stdout, stderr } = await run(['qemu-img', 'check', '--force-share', disk], { check: false });
    if (code !== 0) found.push(`disk of ${node.name}: ${stderr.trim()} ${stdout.trim()}`.slice(0, 500));
  }
  return found;
}
