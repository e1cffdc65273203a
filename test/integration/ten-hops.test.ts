/** There and back five times: nothing grows, and every hop after the first costs a fraction of it. */
import { lstatSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { residue, unfinishedFiles } from '../faults/residue.js';
import { testUnless } from '../support/obstacle.js';
import { list } from '../support/volatile-files.js';
import type { TestbedNode } from '../testbed/node.js';
import type { ProbeState } from '../testbed/probe/probe-service.js';
import { askAgent } from './support/agent-client.js';
import { hop } from './support/hop.js';
import { benchUnavailable, ProbeBench } from './support/probe-bench.js';
import { setUp } from './support/set-up.js';

const obstacle = benchUnavailable();
const check = testUnless(test, obstacle);

const hops = 10;
/** Connections and the spare worker's pipes come and go. */
const fewMore = 6;
const settleLimitMs = 20_000;

/** The memory of jobs and of settled migrations, a few kilobytes each. */
const diskSlackBytes = 2 ** 19;
/** What a garbage collector may leave for later. */
const memorySlackBytes = 64 * 2 ** 20;

/** What a node keeps and holds open. */
interface Stock {
  files: number;
  openFiles: number;
  /** On disk, of all of its state directory. */
  diskBytes: number;
  /** Of its agent, in memory. */
  agentBytes: number;
}

let bench: ProbeBench;
let before: ProbeState;
const sentBytes: number[] = [];
/** After each hop, by node. */
const stocks: Record<string, Stock>[] = [];

async function stockOf(node: TestbedNode): Promise<Stock> {
  const { pid } = await askAgent(node, (agent) => agent.node());
  // Of jobs and of migrations that are settled the last hundred are remembered; a container's root shows others' files.
  const files = readdirSync(node.stateDirectory, { recursive: true, encoding: 'latin1' }).filter(
    (path) => !/^(jobs|journal)\/|\/workload\/merged\//.test(path),
  );
  const status = readFileSync(join('/proc', String(pid), 'status'), 'utf8');
  return {
    files: files.length,
    openFiles: readdirSync(join('/proc', String(pid), 'fd')).length,
    diskBytes: diskBytes(node.stateDirectory),
    agentBytes: Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024,
  };
}

/** As du counts: a file once, whatever its names, and of its holes nothing. */
function diskBytes(directory: string): number {
  const blocks = new Map<number, number>();
  const visit = (path: string): void => {
    const found = lstatSync(path, { throwIfNoEntry: false });
    if (found === undefined) return;
    blocks.set(found.ino, found.blocks);
    if (found.isDirectory()) for (const name of list(path)) visit(join(path, name));
  };
  visit(directory);
  return [...blocks.values()].reduce((sum, count) => sum + count * 512, 0);
}

setUp(test, obstacle, async () => {
  bench = await ProbeBench.create({ link: { rateBps: 300_000_000, delayMs: 2 } });
  before = await bench.client.state();
});

test.after(async () => {
  await bench?.testbed.dispose();
});

check('ten hops, each of them whole', async () => {
  const { a, b, nodes } = bench.testbed;
  for (let number = 0; number < hops; number++) {
    const [from, to] = number % 2 === 0 ? [a, b] : [b, a];
    const { summary, stderr } = await hop(from, bench.service.name, to.agentAddress);
    assert.is(summary.error, undefined, stderr);
    assert.is(summary.result, 'moved');
    before = await bench.assertGoesOnFrom(before);
    await bench.assertConnectionWhole();
    const look = (): string[] => [
      ...residue(bench.testbed, to, bench.service.name, 'lxc'),
      ...unfinishedFiles(bench.testbed),
    ];
    for (const deadline = Date.now() + settleLimitMs; look().length > 0 && Date.now() < deadline; ) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.equal(look(), [], `after hop ${number + 1}`);
    sentBytes.push(summary.bytesSent + summary.bytesReceived);
    stocks.push(Object.fromEntries(await Promise.all(nodes.map(async (node) => [node.name, await stockOf(node)]))));
  }
});

check('every hop after the first costs less than a third of it', () => {
  const [first = 0, ...others] = sentBytes;
  process.stdout.write(`  bytes: ${sentBytes.join(' ')}\n`);
  for (const bytes of others) assert.ok(bytes < first / 3, `${bytes} bytes after ${first}`);
});

check('neither node keeps more or holds more open than after the first return', () => {
  for (const { name } of bench.testbed.nodes) {
    const [, second] = stocks;
    const last = stocks.at(-1);
    const [early, late] = [second?.[name], last?.[name]];
    assert.ok(early !== undefined && late !== undefined);
    process.stdout.write(
      `  ${name}: ${early.files} then ${late.files} files, ${early.openFiles} then ${late.openFiles} open\n`,
    );
    assert.ok(late.files <= early.files, `${late.files} files on ${name}, ${early.files} before`);
    assert.ok(late.openFiles <= early.openFiles + fewMore, `${late.openFiles} open files on ${name}`);
  }
});

check('neither node takes more of its disk than after its first time in either part, nor its agent more memory', () => {
  for (const { name } of bench.testbed.nodes) {
    const own = stocks.map((each) => each[name]).filter((stock) => stock !== undefined);
    const [disk, memory] = [own.map((stock) => stock.diskBytes), own.map((stock) => stock.agentBytes)];
    const mib = (values: number[]): string => values.map((bytes) => (bytes / 2 ** 20).toFixed(1)).join(' ');
    process.stdout.write(`  ${name}: ${mib(disk)} MiB on disk, its agent ${mib(memory)} MiB\n`);
    // The second and third hop are the first ones from and to a node that both have been.
    for (const [index, bytes] of disk.entries()) {
      if (index < 3) continue;
      const first = disk[index % 2 === 0 ? 2 : 1] ?? 0;
      assert.ok(bytes <= first + diskSlackBytes, `${bytes} bytes on the disk of ${name} after hop ${index + 1}`);
    }
    // By then an agent has had either part twice, and its caches are warm.
    const before = memory[3] ?? 0;
    const after = memory.at(-1) ?? 0;
    assert.ok(after <= before + memorySlackBytes, `${after} bytes of memory of the agent of ${name}, ${before} before`);
  }
});

check('nothing is left behind', async () => {
  await bench.assertLeavesNothing();
});

test.run();
