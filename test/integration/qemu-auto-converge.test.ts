/**
 * A guest that rewrites more memory than the link carries: without `--auto-converge` all of it is left for the freeze, with it
 * the guest is slowed down until little is, and nobody's death leaves it so.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { MigrationEvent } from '../../src/migrate/phases.js';
import { findVictims } from '../faults/victims.js';
import { testUnless } from '../support/obstacle.js';
import { throttleUnavailable } from '../support/throttle.js';
import type { TestbedNode } from '../testbed/node.js';
import { mustRun } from '../testbed/probe/probe-service.js';
import { askAgent } from './support/agent-client.js';
import { type Hop, hop, once } from './support/hop.js';
import { isJournalSettled } from './support/journal-watch.js';
import { benchUnavailable, ProbeBench } from './support/probe-bench.js';
import { setUp } from './support/set-up.js';

/** Words that the probe changes every 10 ms at the most: as fast as it can, in a quarter of its memory. */
const changes = 100_000;
const memoryMib = 16;
const rewrittenBytes = (memoryMib / 4) * 2 ** 20;

/** From an agent's death, or its start, to a guest that has its processors again. */
const freeLimitMs = 10_000;

const obstacle = benchUnavailable() ?? (await throttleUnavailable());
const check = testUnless(test, obstacle);

let bench: ProbeBench;
let source: TestbedNode;
let destination: TestbedNode;

setUp(test, obstacle, async () => {
  bench = await ProbeBench.create({
    driver: 'qemu',
    sizes: { memoryMib, changes },
    link: { rateBps: 300_000_000, delayMs: 5 },
  });
  [source, destination] = [bench.testbed.a, bench.testbed.b];
  // What is not rewritten is at both nodes from here on.
  assert.is((await move([])).summary.result, 'moved');
  await bench.testbed.link.set({ rateBps: 20_000_000 });
});

test.after(async () => {
  if (obstacle === null) await bench.assertLeavesNothing();
});

async function move(options: readonly string[], onEvent: (event: MigrationEvent) => void = () => {}): Promise<Hop> {
  const moved = await hop(source, bench.service.name, destination.agentAddress, onEvent, options);
  if (moved.summary.result === 'moved') [source, destination] = [destination, source];
  return moved;
}

const finalBytes = ({ summary }: Pick<Hop, 'summary'>): number =>
  summary.phases.find(({ name }) => name === 'final')?.bytesSent ?? 0;

function isSlowedDown(node: TestbedNode): boolean {
  const place = { stateDirectory: node.stateDirectory, service: bench.service.name };
  const threads = findVictims('qemu', place).flatMap(({ pid }) =>
    readdirSync(`/proc/${pid}/task`).map((tid) => [pid, tid]),
  );
  const grouped = threads.some(([pid, tid]) =>
    readFileSync(`/proc/${pid}/task/${tid}/cgroup`, 'utf8').includes('deltahop-'),
  );
  return grouped || existsSync(join(node.stateDirectory, 'services', bench.service.name, 'workload/throttled'));
}

async function untilFree(node: TestbedNode): Promise<void> {
  for (const deadline = Date.now() + freeLimitMs; isSlowedDown(node); await sleep(20)) {
    assert.ok(Date.now() < deadline, 'it is slowed down still');
  }
}

async function untilRuns(node: TestbedNode): Promise<void> {
  for (const deadline = Date.now() + 30_000; ; await sleep(50)) {
    const { state } = await askAgent(node, (agent) => agent.service(bench.service.name));
    if (state === 'running' && isJournalSettled(node)) return;
    assert.ok(Date.now() < deadline, `it is ${state}`);
  }
}

/** Begins a migration that is to be slowed down, and does something as soon as it is. */
async function whenSlowedDown(act: (interrupt: () => void) => void): Promise<void> {
  await hop(
    source,
    bench.service.name,
    destination.agentAddress,
    once(({ type }) => type === 'throttle', act),
    ['--auto-converge'],
  ).catch(() => {}); // Its agent may have been killed.
}

/** What came of it, by round, for whoever reads the output. */
function say({ events, summary }: Hop): void {
  const rounds = events.flatMap((event) => (event.type === 'round' ? [`${event.bytesSent} ${event.next}`] : []));
  const throttle = JSON.stringify(summary.throttle);
  process.stdout.write(
    `  rounds ${rounds.join(', ')}; final ${finalBytes({ summary })}; down ${summary.downtimeMs} ms, throttle ${throttle}\n`,
  );
}

let without: Hop;

check('without --auto-converge what it rewrites is left for the freeze', async () => {
  without = await move([]);
  assert.is(without.summary.result, 'moved', without.stderr);
  assert.is(without.summary.throttle, null);
  say(without);
  assert.ok(finalBytes(without) > rewrittenBytes / 2, `${finalBytes(without)} bytes in the last delta`);
});

check('a dry run says how it would be slowed down', async () => {
  const said = await mustRun(source, [
    ...['migrate', bench.service.name, destination.agentAddress, '--dry-run', '--auto-converge'],
  ]);
  assert.match(said, /slows its processors down by cgroup v[12]/);
});

check(
  'with it the guest is slowed down until little is left, and has all of its processors at the other node',
  async () => {
    const before = await bench.client.state();
    const from = source;
    const moved = await move(['--auto-converge']);
    assert.is(moved.summary.result, 'moved', moved.stderr);
    const { throttle } = moved.summary;
    say(moved);
    assert.ok(throttle !== null && throttle.leastPercent <= 25 && throttle.ms > 0);
    assert.ok(finalBytes(moved) < finalBytes(without) / 4, `${finalBytes(moved)} bytes in the last delta`);
    assert.not.ok(isSlowedDown(from));
    assert.not.ok(isSlowedDown(source));
    await bench.assertConnectionWhole();
    await bench.assertGoesOnFrom(before);
  },
);

check('a migration that is cancelled leaves it with all of its processors', async () => {
  await whenSlowedDown((interrupt) => interrupt());
  assert.not.ok(isSlowedDown(source));
  await untilRuns(source);
});

check('a destination that dies leaves it with all of its processors', async () => {
  const dead = destination;
  let dying: Promise<void> | null = null;
  await whenSlowedDown(() => {
    dying = dead.stopAgent('SIGKILL');
  });
  await dying;
  await untilFree(source);
  await dead.startAgent();
  await untilRuns(source);
});

check('when its agent is killed it has them back before there is another', async () => {
  const node = source;
  let dying: Promise<void> | null = null;
  await whenSlowedDown(() => {
    dying = node.stopAgent('SIGKILL');
  });
  await dying;
  await untilFree(node);
  await node.startAgent();
  await untilRuns(node);
});

check('when whoever would give them back is killed with the agent, the next agent does', async () => {
  const node = source;
  const list = join(node.stateDirectory, 'services', bench.service.name, 'workload/throttled');
  let dying: Promise<void> | null = null;
  await whenSlowedDown(() => {
    for (const entry of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      const argv = existsSync(`/proc/${entry}/cmdline`)
        ? readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0')
        : [];
      if (argv.includes(list)) process.kill(Number(entry), 'SIGKILL');
    }
    dying = node.stopAgent('SIGKILL');
  });
  await dying;
  await sleep(500);
  assert.ok(isSlowedDown(node), 'nobody was there to give them back');
  await node.startAgent();
  await untilFree(node);
  await untilRuns(node);
  await bench.assertConnectionWhole();
});

test.run();
