/**
 * Agents die at points of a virtual machine's hand-off: afterwards exactly one copy runs, and its user's connection has
 * lost and doubled nothing. The protocol itself is handoff.test.ts's business; here it is a driver's barrier.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'uvu';
import * as assert from 'uvu/assert';
import { testUnless } from '../../support/obstacle.js';
import { Testbed } from '../../testbed/testbed.js';
import { killAt, type Pair } from './agent-kill.js';
import { hop } from './hop.js';
import { isJournalSettled } from './journal-watch.js';
import { MachineBench } from './machine-bench.js';
import { setUp } from './set-up.js';

/** From the return of the agents to one running copy and settled journals on both nodes. */
const settleLimitMs = 30_000;
/** A barrier without an agent waits for 20 s before it lets the machine go on; a busy machine is given more. */
const patienceLimitMs = 45_000;

/** Whose journal has to say what for the agents to be killed, and which of them are. */
export type KillPoint =
  Parameters<typeof killAt> extends [unknown, unknown, infer Whose, infer Point, infer Victims]
    ? readonly [Whose, Point, Victims]
    : never;

/** Adds the tests of a driver's barrier to a file's. */
export function checkHandOffs(test: Test, driver: 'qemu' | 'libvirt', points: readonly KillPoint[]): void {
  const obstacle = Testbed.unavailable();
  const check = testUnless(test, obstacle);

  let bench: MachineBench;
  let pair: Pair;

  /** Waits until one node owns the machine and runs it, and neither waits for anything. */
  async function untilSettled(): Promise<void> {
    for (const deadline = Date.now() + settleLimitMs; ; await sleep(200)) {
      const nodes = [pair.source, pair.destination] as const;
      const [here = '', there = ''] = await Promise.all(nodes.map((node) => bench.stateOn(node).catch(String)));
      const owner = here === 'owned running' ? 0 : 1;
      const [is, other] = owner === 0 ? [here, there] : [there, here];
      if (is === 'owned running' && /^(departed|arriving) stopped$/.test(other) && nodes.every(isJournalSettled)) {
        pair = { source: nodes[owner], destination: nodes[1 - owner] ?? nodes[0] };
        assert.is(bench.machines().length, 1, 'processes of QEMU');
        return;
      }
      if (Date.now() > deadline) throw new Error(`not settled: ${here} / ${there}`);
    }
  }

  async function assertNextTryWorks(): Promise<void> {
    const next = await hop(pair.source, bench.service, pair.destination.agentAddress);
    assert.is(next.summary.error, undefined, next.stderr);
    await untilSettled();
    await bench.assertClientWhole();
  }

  setUp(test, obstacle, async () => {
    bench = await MachineBench.create(driver);
    pair = { source: bench.testbed.a, destination: bench.testbed.b };
  });

  test.after(async () => {
    await bench?.testbed.dispose();
  });

  for (const [whose, point, victims] of points) {
    check(`SIGKILL of the agent of the ${victims.join(' and the ')} when the ${whose} is ${point}`, async () => {
      const wasAt = pair.source;
      const dead = await killAt(pair, bench.service, whose, point, victims);
      await Promise.all(dead.map((node) => node.startAgent()));
      await untilSettled();
      process.stdout.write(`  ${pair.source === wasAt ? 'stayed' : 'moved'}\n`);
      if (whose === 'destination' && point !== 'prepared') assert.is.not(pair.source, wasAt, 'it was decided');
      await bench.assertClientWhole();
    });
  }

  check('a source whose agent stays away lets the machine go on by itself', async () => {
    const wasAt = pair.source;
    const dead = await killAt(pair, bench.service, 'source', 'held', ['source']);
    const late = new AbortController();
    const answers = bench.untilItAnswers().then(() => true);
    assert.ok(await Promise.race([answers, sleep(patienceLimitMs, false, { signal: late.signal })]), 'it stands still');
    late.abort();
    await bench.assertClientWhole();
    await Promise.all(dead.map((node) => node.startAgent()));
    await untilSettled();
    assert.is(pair.source, wasAt);
    await assertNextTryWorks();
  });

  check('its disks are sound at both ends', async () => {
    await bench.checkDisk(bench.testbed.a);
    await bench.checkDisk(bench.testbed.b);
  });
}
