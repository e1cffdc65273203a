/** There and back five times: nothing grows, and every hop after the first costs a fraction of it. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { residue, unfinishedFiles } from '../faults/residue.js';
import { testUnless } from '../support/obstacle.js';
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

/** What a node keeps and holds open. */
interface Stock {
  files: number;
  openFiles: number;
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
  return { files: files.length, openFiles: readdirSync(join('/proc', String(pid), 'fd')).length };
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

check('nothing is left behind', async () => {
  await bench.assertLeavesNothing();
});

test.run();
