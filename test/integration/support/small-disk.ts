/** A node whose whole state is on a disk of its own, which can be filled. */
import { join } from 'node:path';
import { run } from '../../testbed/command.js';
import type { TestbedNode } from '../../testbed/node.js';
import type { Testbed } from '../../testbed/testbed.js';

/** Puts the state directory of a node whose agent was not started yet on a file system of so many MiB. */
export async function smallDisk(testbed: Testbed, node: TestbedNode, mib: number): Promise<void> {
  const image = join(testbed.directory, `disk-of-${node.name}`);
  const { stateDirectory } = node;
  await run(['truncate', '-s', `${mib}M`, image]);
  // Blocks of 4 KiB as on any larger disk: an extended attribute must fit into one.
  await run(['mkfs.ext4', '-q', '-m', '0', '-b', '4096', image]);
  await run(['mount', '-o', 'loop', image, stateDirectory]);
  // The same file system once more where the agent runs: mounts do not pass from here to there.
  const device = (await run(['findmnt', '-n', '-o', 'SOURCE', stateDirectory])).stdout.trim();
  await node.exec(['mount', device, stateDirectory]);
}
