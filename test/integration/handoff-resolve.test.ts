/** One node is gone in the middle of a hand-off: nothing runs twice meanwhile, the operator decides, and whoever comes back yields. */
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { HandOffView } from '../../src/agent/messages.js';
import { testUnless } from '../support/obstacle.js';
import { ended } from '../testbed/command.js';
import type { TestbedNode } from '../testbed/node.js';
import { mustRun, type ProbeState } from '../testbed/probe/probe-service.js';
import { hop } from './support/hop.js';
import { isJournalSettled, journalOf, migrationsOf, untilJournal } from './support/journal-watch.js';
import { benchUnavailable, ProbeBench } from './support/probe-bench.js';
import { setUp } from './support/set-up.js';

const obstacle = benchUnavailable();
const check = testUnless(test, obstacle);

let bench: ProbeBench;
let before: ProbeState;
let source: TestbedNode;
let destination: TestbedNode;

setUp(test, obstacle, async () => {
  bench = await ProbeBench.create();
  [source, destination] = [bench.testbed.a, bench.testbed.b];
  before = await bench.client.state();
});

test.after(async () => {
  await bench?.testbed.dispose();
});

/**
 * Migrates until the source has committed and the agent of `victim` dies before the destination has heard of it. It takes a
 * try or two: the two are milliseconds apart.
 */
async function committedUnheard(victim: () => TestbedNode): Promise<void> {
  for (let tries = 0; tries < 6; tries++) {
    const known = migrationsOf(source);
    const dead = victim();
    const command = source.spawnCli(['migrate', bench.service.name, destination.agentAddress], { stdio: 'ignore' });
    await untilJournal(source, 'committed', known);
    await dead.stopAgent('SIGKILL');
    command.kill('SIGKILL');
    await ended(command, 5_000);
    const heard = journalOf(destination).find(({ migration }) => !known.has(migration))?.state;
    if (heard === 'prepared') return;
    await dead.startAgent();
    await untilBothSettled();
    [source, destination] = [destination, source];
    before = await bench.assertGoesOnFrom(before);
  }
  throw new Error('the destination always heard it first');
}

async function untilBothSettled(): Promise<void> {
  for (const deadline = Date.now() + 30_000; ; await sleep(50)) {
    if ([source, destination].every(isJournalSettled)) return;
    if (Date.now() > deadline) throw new Error('the journals are not settled');
  }
}

async function refusedStart(node: TestbedNode): Promise<string> {
  const { code, stdout } = await node.cli(['service', 'start', bench.service.name, '--json']);
  assert.is.not(code, 0);
  return (JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as { code: string }).code;
}

async function recover(node: TestbedNode): Promise<{ waiting: number; handOffs: HandOffView[] }> {
  const { stdout } = await node.cli(['recover', '--json'], { timeoutMs: 60_000 });
  return JSON.parse(stdout) as { waiting: number; handOffs: HandOffView[] };
}

async function assertNextTryWorks(): Promise<void> {
  const next = await hop(source, bench.service.name, destination.agentAddress);
  assert.is(next.summary.error, undefined, next.stderr);
  [source, destination] = [destination, source];
  before = await bench.assertGoesOnFrom(before);
  await bench.assertConnectionWhole();
}

check(
  'the destination is gone: the source neither resumes nor starts it, and goes on when its operator says so',
  async () => {
    await committedUnheard(() => destination);
    assert.is((await bench.inspect(source)).state, 'stopped');
    // The job still tells; without it, it would be owned elsewhere.
    assert.match(await refusedStart(source), /^DELTAHOP_E_(BUSY|OWNED_ELSEWHERE)$/);
    const { waiting, handOffs } = await recover(source);
    assert.is(waiting, 1);
    assert.equal([handOffs[0]?.side, handOffs[0]?.state], ['source', 'committed']);
    const { epoch } = await bench.inspect(source);

    await mustRun(source, ['resolve', bench.service.name, '--keep', 'source']);
    const kept = await bench.inspect(source);
    assert.equal([kept.ownership, kept.state, kept.epoch], ['owned', 'running', epoch + 1]);
    before = await bench.assertGoesOnFrom(before);

    await destination.startAgent();
    await untilBothSettled();
    const yielded = await bench.inspect(destination);
    assert.is.not(yielded.ownership, 'owned');
    assert.is(yielded.state, 'stopped');
    await assertNextTryWorks();
  },
);

check('the source is gone: the destination waits, and runs it when its operator says so', async () => {
  await committedUnheard(() => source);
  await sleep(5_000);
  assert.is.not((await bench.inspect(destination)).state, 'running', 'it never promotes itself');
  assert.match(await refusedStart(destination), /^DELTAHOP_E_(BUSY|OWNED_ELSEWHERE)$/);
  const { handOffs } = await recover(destination);
  assert.equal([handOffs[0]?.side, handOffs[0]?.state], ['destination', 'prepared']);

  await mustRun(destination, ['resolve', bench.service.name, '--keep', 'destination']);
  const kept = await bench.inspect(destination);
  assert.equal([kept.ownership, kept.state], ['owned', 'running']);
  before = await bench.assertGoesOnFrom(before);

  await source.startAgent();
  await untilBothSettled();
  const yielded = await bench.inspect(source);
  assert.equal([yielded.ownership, yielded.state], ['departed', 'stopped']);
  assert.ok(yielded.epoch >= kept.epoch, 'it knows of the later owner');
  [source, destination] = [destination, source];
  await assertNextTryWorks();
});

check('nothing is open afterwards, and there is nothing to resolve', async () => {
  assert.equal((await recover(source)).handOffs, []);
  const { code, stdout } = await source.cli(['resolve', bench.service.name, '--keep', 'source', '--json']);
  assert.is(code, 1);
  assert.match(stdout, /DELTAHOP_E_NOT_FOUND/);
});

check('nothing is left behind', async () => {
  await bench.assertLeavesNothing();
});

test.run();
