/** deltahop's own moves of a machine, whose base and app are at both nodes. */
import { type GuestImages, guestArguments } from '../../test/testbed/guest.js';
import type { TestbedNode } from '../../test/testbed/node.js';
import { Testbed } from '../../test/testbed/testbed.js';
import { address, booted, fillRandom, type MoveRow, measured } from './measured.js';

const service = 'machine';
const freshMib = 100;

/** The first move, as many more as told, and one after memory was written anew. */
export async function deltahopMoves(images: GuestImages, hops: number): Promise<MoveRow[]> {
  const testbed = await Testbed.create();
  try {
    const { a, b } = testbed;
    await Promise.all([a.startAgent(), b.startAgent()]);
    for (const node of [a, b]) {
      await succeed(node, ['layer', 'import', '--kind', 'base', '--name', 'debian', images.base]);
      const app = ['--kind', 'app', '--name', 'redis', '--parent', 'debian', images.appRedis];
      await succeed(node, ['layer', 'import', ...app]);
    }
    const described = ['--base', 'debian', '--app', 'redis', ...guestArguments(images, `${address}/24`)];
    await succeed(a, ['service', 'add', service, ...described]);
    await succeed(a, ['service', 'start', service]);
    await booted(testbed);
    const rows: MoveRow[] = [];
    for (let number = 0; number <= hops; number++) {
      const isLast = number === hops;
      if (isLast) await fillRandom(testbed, freshMib);
      const way = isLast
        ? `deltahop, ${freshMib} MiB of random bytes written before`
        : number === 0
          ? 'deltahop, first'
          : 'deltahop, again';
      const [from, to] = number % 2 === 0 ? [a, b] : [b, a];
      rows.push(await measured(testbed, way, () => hop(from, to)));
    }
    return rows;
  } finally {
    await testbed.dispose();
  }
}

async function hop(from: TestbedNode, to: TestbedNode): Promise<MoveRow['final']> {
  const output = await succeed(from, ['migrate', service, to.agentAddress, '--json']);
  const summary = JSON.parse(output.trim().split('\n').at(-1) ?? '') as {
    result: string;
    downtimeMs: number;
    downtime: { stage: string; ms: number }[];
    phases: { name: string; bytesSent: number }[];
    error?: { message: string };
  };
  if (summary.result !== 'moved') throw new Error(summary.error?.message ?? summary.result);
  const bytes = summary.phases.find(({ name }) => name === 'final')?.bytesSent ?? 0;
  const stages = Object.fromEntries(summary.downtime.map(({ stage, ms }) => [stage, ms]));
  return { bytes, downtimeMs: summary.downtimeMs, stages };
}

async function succeed(node: TestbedNode, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await node.cli(args, { timeoutMs: 300_000 });
  if (code !== 0) throw new Error(`deltahop ${args[0]} on ${node.name}: ${stderr.trim() || stdout.trim()}`);
  return stdout;
}
