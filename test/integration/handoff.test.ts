/**
 * Agents die at every point of the hand-off, on real nodes: afterwards exactly one copy runs, its counters have not gone
 * back, its user's connection has lost nothing, and the next migration works.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { testUnless } from '../support/obstacle.js';
import { ended } from '../testbed/command.js';
import type { TestbedNode } from '../testbed/node.js';
import type { ProbeState } from '../testbed/probe/probe-service.js';
import { killAt } from './support/agent-kill.js';
import { hop } from './support/hop.js';
import { isJournalSettled, journalOf, migrationsOf, untilJournal } from './support/journal-watch.js';
import { benchUnavailable, ProbeBench } from './support/probe-bench.js';
import { setUp } from './support/set-up.js';

const obstacle = benchUnavailable();
const check = testUnless(test, obstacle);

/** From the return of the agents to one running copy and settled journals on both nodes. */
const settleLimitMs = 30_000;
/** A barrier without an agent waits for 20 s before it lets the service go on; a busy machine is given more. */
const patienceLimitMs = 45_000;

let bench: ProbeBench;
let before: ProbeState;
/** Where the service runs, and the other node. */
let source: TestbedNode;
let destination: TestbedNode;

/** Containers of the service that have processes: cgroup names have the service's in them. */
function copies(): string[] {
  const root = '/sys/fs/cgroup/freezer';
  const flat = readdirSync(root).length > 0 ? root : '/sys/fs/cgroup';
  return readdirSync(flat).filter((entry) => {
    if (!entry.startsWith(`lxc.payload.${bench.service.name}-`)) return false;
    try {
      return readFileSync(`${flat}/${entry}/cgroup.procs`, 'utf8').trim() !== '';
    } catch {
      return false;
    }
  });
}

/** Waits until one node owns the service and runs it, and neither waits for anything. */
async function untilSettled(limitMs: number): Promise<number> {
  const startedAt = Date.now();
  for (;;) {
    const nodes = [source, destination];
    const views = await Promise.all(nodes.map((node) => bench.inspect(node).catch(() => null)));
    const owners = nodes.filter((_, at) => views[at]?.ownership === 'owned' && views[at]?.state === 'running');
    const others = views.filter((view) => view?.ownership !== 'owned' && view?.state !== 'running');
    const [owner] = owners;
    if (owner !== undefined && owners.length === 1 && others.length === 1 && nodes.every(isJournalSettled)) {
      [source, destination] = owner === source ? [source, destination] : [destination, source];
      assert.is(copies().length, 1, `processes of ${copies().join(' and ')}`);
      return Date.now() - startedAt;
    }
    if (Date.now() - startedAt > limitMs) {
      const said = views.map((view) => `${view?.ownership} ${view?.state}`).join(' / ');
      const states = nodes
        .map((node) =>
          journalOf(node)
            .map(({ state }) => state)
            .join(' '),
        )
        .join(' / ');
      throw new Error(`not settled after ${limitMs} ms: ${said}; journals: ${states}`);
    }
    await sleep(100);
  }
}

async function assertSound(): Promise<void> {
  before = await bench.assertGoesOnFrom(before);
  await bench.assertConnectionWhole();
}

async function assertNextTryWorks(): Promise<void> {
  const next = await hop(source, bench.service.name, destination.agentAddress);
  assert.is(next.summary.error, undefined, next.stderr);
  assert.is(next.summary.result, 'moved');
  [source, destination] = [destination, source];
  await untilSettled(settleLimitMs);
  await assertSound();
}

setUp(test, obstacle, async () => {
  bench = await ProbeBench.create({ link: { rateBps: 200_000_000, delayMs: 5 } });
  [source, destination] = [bench.testbed.a, bench.testbed.b];
  before = await bench.client.state();
});

test.after(async () => {
  await bench?.testbed.dispose();
});

const points = [
  ['source', 'rounds'],
  ['source', 'held'],
  ['destination', 'prepared'],
  ['source', 'committed'],
  ['destination', 'committed'],
  ['destination', 'running'],
] as const;

for (const [whose, point] of points) {
  for (const victims of [['source'], ['destination'], ['source', 'destination']] as const) {
    check(`SIGKILL of the agent of the ${victims.join(' and the ')} when the ${whose} is ${point}`, async () => {
      const wasAt = source;
      const dead = await killAt({ source, destination }, bench.service.name, whose, point, victims);
      await Promise.all(dead.map((node) => node.startAgent()));
      const tookMs = await untilSettled(settleLimitMs);
      process.stdout.write(`  settled in ${tookMs} ms, ${source === wasAt ? 'stayed' : 'moved'}\n`);
      // Once the source has committed, it must not resume; the destination alone may say that it never will run it.
      if (whose === 'destination' && point !== 'prepared') assert.is.not(source, wasAt, 'it was decided');
      if (point === 'rounds' || point === 'held') assert.is(source, wasAt, 'nothing was decided');
      await assertSound();
      await assertNextTryWorks();
    });
  }
}

check('a source whose agent stays away lets the service go on by itself', async () => {
  const wasAt = source;
  const dead = await killAt({ source, destination }, bench.service.name, 'source', 'held', ['source']);
  // Asked of a service that stands still: the answer comes when it goes on.
  const late = new AbortController();
  const answer = await Promise.race([bench.client.state(), sleep(patienceLimitMs, null, { signal: late.signal })]);
  late.abort();
  assert.ok(answer !== null, 'it stands still');
  await Promise.all(dead.map((node) => node.startAgent()));
  await untilSettled(settleLimitMs);
  assert.is(source, wasAt);
  await assertSound();
  await assertNextTryWorks();
});

check('a stopped agent leaves what it holds to the next one', async () => {
  const nodes = { source, destination };
  const known = migrationsOf(destination);
  const command = source.spawnCli(['migrate', bench.service.name, destination.agentAddress, '--json'], {
    stdio: 'ignore',
  });
  await untilJournal(destination, 'prepared', known);
  await nodes.destination.stopAgent();
  await nodes.destination.startAgent();
  await untilSettled(settleLimitMs);
  command.kill('SIGKILL');
  await ended(command, 5_000);
  await assertSound();
  await assertNextTryWorks();
});

check('nothing is left behind', async () => {
  await bench.assertLeavesNothing();
});

test.run();
