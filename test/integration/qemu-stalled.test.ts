/** What stops a virtual machine without its owner's doing: a full disk, and a QEMU that is killed while it is held. */
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Attempt } from '../faults/attempt.js';
import { fill, makeRoom } from '../faults/inject.js';
import { findVictims } from '../faults/victims.js';
import { testUnless } from '../support/obstacle.js';
import type { ProbeState } from '../testbed/probe/probe-service.js';
import { isJournalSettled } from './support/journal-watch.js';
import { benchUnavailable, ProbeBench } from './support/probe-bench.js';
import { setUp } from './support/set-up.js';
import { smallDisk } from './support/small-disk.js';

const obstacle = benchUnavailable();
const check = testUnless(test, obstacle);

const diskMib = 4096;
/** From room on a disk, or an agent's return, to a machine that runs. */
const goesOnLimitMs = 30_000;

let bench: ProbeBench;
let before: ProbeState;

setUp(test, obstacle, async () => {
  bench = await ProbeBench.create({
    driver: 'qemu',
    link: { rateBps: 100_000_000, delayMs: 2 },
    prepare: async (testbed) => {
      for (const node of testbed.nodes) await smallDisk(testbed, node, diskMib);
    },
  });
  before = await bench.client.state();
});

test.after(async () => {
  await bench?.testbed.dispose();
});

async function untilState(wanted: string, limitMs: number): Promise<void> {
  for (const deadline = Date.now() + limitMs; ; await sleep(100)) {
    const { ownership, state } = await bench.inspect(bench.testbed.a);
    if (`${ownership} ${state}` === wanted) return;
    assert.ok(Date.now() < deadline, `it is ${ownership} ${state}`);
  }
}

async function assertWhole(): Promise<void> {
  await untilState('owned running', goesOnLimitMs);
  await bench.assertConnectionWhole();
  before = await bench.assertGoesOnFrom(before);
}

/** Begins a migration and kills the machine's QEMU at the source, which is `a`, as soon as it is held there. */
async function killedWhileHeld(): Promise<Attempt> {
  const { a, b } = bench.testbed;
  const attempt = Attempt.begin(a, b, bench.service.name);
  while (attempt.operation('source') !== 'freeze' || attempt.phase !== 'final') {
    assert.not.ok(attempt.over, attempt.standing);
    await sleep(1);
  }
  const [qemu] = findVictims('qemu', { stateDirectory: a.stateDirectory, service: bench.service.name });
  assert.ok(qemu !== undefined, attempt.standing);
  process.kill(qemu.pid, 'SIGKILL');
  return attempt;
}

check('one that a full disk has stopped goes on by itself once there is room, and not before', async () => {
  const { a } = bench.testbed;
  await fill(a);
  await untilState('owned frozen', goesOnLimitMs);
  await sleep(5_000);
  await untilState('owned frozen', 0);
  await makeRoom(a);
  await assertWhole();
});

check('one whose QEMU is killed while it is held goes on at its source if nothing comes of its migration', async () => {
  const { a, b, link } = bench.testbed;
  const attempt = await killedWhileHeld();
  await link.cut();
  const summary = await attempt.ended;
  assert.not.equal(summary?.result, 'moved');
  await link.mend();
  await assertWhole();
  for (const deadline = Date.now() + goesOnLimitMs; ![a, b].every(isJournalSettled); await sleep(100)) {
    assert.ok(Date.now() < deadline, attempt.standing);
  }
});

check('the same if its agent dies with it', async () => {
  const { a, link } = bench.testbed;
  const attempt = await killedWhileHeld();
  await link.cut();
  await a.stopAgent('SIGKILL');
  await attempt.ended;
  await a.startAgent();
  await assertWhole();
  await link.mend();
});

test.run();
