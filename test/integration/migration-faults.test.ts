/** What goes wrong on nodes and at the command: a clear error each time, the service runs on, and the next try works. */
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { JobView } from '../../src/agent/messages.js';
import { testUnless } from '../support/obstacle.js';
import { criuDirectory, type TestbedNode } from '../testbed/node.js';
import type { ProbeState } from '../testbed/probe/probe-service.js';
import { mustRun } from '../testbed/probe/probe-service.js';
import { type Hop, hop, type Onlooker, whenPhaseIsThrough, whenPhaseStarts } from './support/hop.js';
import { benchUnavailable, ProbeBench } from './support/probe-bench.js';
import { setUp } from './support/set-up.js';
import { smallDisk } from './support/small-disk.js';

const obstacle = benchUnavailable();
const check = testUnless(test, obstacle);

/** The destination's whole state is on a disk of this size; what the try before left may still be on its way out of it. */
const diskMib = 200;
const memoryMib = 10;

let bench: ProbeBench;
let before: ProbeState;

async function tryHop(onEvent?: Onlooker): Promise<Hop> {
  const { a, b } = bench.testbed;
  return await hop(a, bench.service.name, b.agentAddress, onEvent);
}

/** Asserts a failure with this code, words in the message, and a service that has noticed nothing. */
async function assertFailed(failed: Hop, code: RegExp, words: RegExp): Promise<void> {
  assert.is(failed.summary.result, 'failed');
  const error = failed.summary.error;
  assert.match(error?.code ?? '', code, error?.message ?? '');
  assert.match(error?.message ?? '', words);
  assert.ok((error?.remedy ?? '').length > 0, 'a remedy');
  await bench.assertUnharmedAtSource(before);
}

/** Moves the service to b and back, which has to work after every failure. */
async function assertNextTryWorks(): Promise<void> {
  const { a, b } = bench.testbed;
  const there = await tryHop();
  assert.is(there.summary.error, undefined, there.stderr);
  assert.is(there.summary.result, 'moved');
  const back = await hop(b, bench.service.name, a.agentAddress);
  assert.is(back.summary.error, undefined, back.stderr);
  assert.is(back.summary.result, 'moved');
  before = await bench.assertGoesOnFrom(before);
  await bench.assertConnectionWhole();
}

/** Runs a command that must be refused before anything begins. */
async function refused(node: TestbedNode, args: readonly string[]): Promise<{ code: string; message: string }> {
  const { code, stdout } = await node.cli([...args, '--json']);
  assert.is.not(code, 0);
  const last = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as {
    code?: string;
    message?: string;
    error?: { code: string; message: string };
  };
  return { code: last.code ?? last.error?.code ?? '', message: last.message ?? last.error?.message ?? '' };
}

/** Hides CRIU from a node; returns what brings it back. */
async function hideCriu(node: TestbedNode): Promise<() => Promise<void>> {
  await node.exec(['mount', '-t', 'tmpfs', 'tmpfs', criuDirectory]);
  return async () => {
    await node.exec(['umount', criuDirectory]);
  };
}

/** Runs `work`, whose argument fills the destination's disk but for so many MiB, and makes room again. */
async function withFullDisk(freeMib: number, work: (fill: () => Promise<void>) => Promise<Hop>): Promise<Hop> {
  const { b } = bench.testbed;
  const fill = `fallocate -l $(($(stat -f -c '%a*%S' "$1") - ${freeMib} * 1048576)) "$1/ballast"`;
  try {
    return await work(async () => {
      await b.exec(['sh', '-c', fill, 'sh', b.stateDirectory]);
    });
  } finally {
    await b.exec(['rm', '-f', `${b.stateDirectory}/ballast`]);
  }
}

/** Process ids of the transfer workers of a node's agent. */
function workersOf(node: TestbedNode): number[] {
  const found: number[] = [];
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const environment = readFileSync(`/proc/${entry}/environ`, 'utf8');
      const command = readFileSync(`/proc/${entry}/cmdline`, 'utf8');
      if (environment.includes(`DELTAHOP_STATE=${node.stateDirectory}`) && command.includes('/worker.js')) {
        found.push(Number(entry));
      }
    } catch {
      // gone meanwhile
    }
  }
  return found;
}

setUp(test, obstacle, async () => {
  bench = await ProbeBench.create({
    sizes: { baseMib: 4, memoryMib },
    prepare: async (testbed) => {
      await smallDisk(testbed, testbed.b, diskMib);
    },
  });
  before = await bench.client.state();
});

test.after(async () => {
  await bench?.testbed.dispose();
});

check('CRIU is missing at the destination', async () => {
  const restore = await hideCriu(bench.testbed.b);
  try {
    const failed = await tryHop();
    await assertFailed(failed, /^DELTAHOP_E_PREFLIGHT$/, /criu/i);
    assert.equal(
      failed.summary.phases.map(({ name }) => name),
      ['preflight'],
      'refused before anything was sent',
    );
  } finally {
    await restore();
  }
});

check('CRIU is missing at the source', async () => {
  const restore = await hideCriu(bench.testbed.a);
  try {
    await assertFailed(await tryHop(), /^DELTAHOP_E_PREFLIGHT$/, /criu/i);
  } finally {
    await restore();
  }
});

check('the disk of the destination has no room for the layers', async () => {
  const failed = await withFullDisk(8, async (fill) => {
    await fill();
    return await tryHop();
  });
  await assertFailed(failed, /^DELTAHOP_E_NO_SPACE$/, /\bb\b/);
  assert.equal(
    failed.summary.phases.map(({ name }) => name),
    ['preflight'],
  );
});

check('the disk of the destination fills up while memory arrives', async () => {
  const failed = await withFullDisk(4, async (fill) => {
    let filling: Promise<void> | null = null;
    const tried = await tryHop(
      whenPhaseStarts('rounds', () => {
        filling = fill();
      }),
    );
    assert.ok(filling !== null, `the rounds began: ${JSON.stringify(tried.summary.error)}`);
    await filling;
    return tried;
  });
  await assertFailed(failed, /^DELTAHOP_E_NO_SPACE$/, /\S/);
  assert.is(failed.summary.phases.at(-1)?.name, 'rounds');
  await assertNextTryWorks();
});

check('the worker at the destination is killed in the middle of a transfer', async () => {
  const { a, b } = bench.testbed;
  // What b holds already would not be sent again.
  await bench.client.refill();
  let killed: number[] = [];
  const survived = await hop(
    a,
    bench.service.name,
    b.agentAddress,
    whenPhaseIsThrough('rounds', 0.3, () => {
      killed = workersOf(b);
      for (const pid of killed) process.kill(pid, 'SIGKILL');
    }),
  );
  assert.ok(killed.length > 0, 'a worker served the transfer');
  assert.is(survived.summary.error, undefined, survived.stderr);
  assert.is(survived.summary.result, 'moved', 'another worker takes its place, and the transfer goes on');
  before = await bench.assertGoesOnFrom(before);
  await bench.assertConnectionWhole();
  const back = await hop(b, bench.service.name, a.agentAddress);
  assert.is(back.summary.result, 'moved', JSON.stringify(back.summary.error));
});

check('Ctrl-C while the rounds run', async () => {
  await bench.client.refill();
  const interrupted = await tryHop(whenPhaseIsThrough('rounds', 0.2, (interrupt) => interrupt()));
  assert.is(interrupted.exitCode, 130, interrupted.stderr);
  await assertFailed(interrupted, /^DELTAHOP_E_CANCELLED$/, /cancel/);
  await assertNextTryWorks();
});

check('`deltahop cancel` while the rounds run', async () => {
  const { a } = bench.testbed;
  const jobs = async (): Promise<JobView[]> =>
    (JSON.parse(await mustRun(a, ['jobs', '--json'])) as { jobs: JobView[] }).jobs;
  await bench.client.refill();
  let cancelling: Promise<string> | null = null;
  const cancelled = await tryHop(
    whenPhaseIsThrough('rounds', 0.2, () => {
      cancelling = jobs().then(async (all) => {
        const id = all.find(({ state }) => state === 'running')?.id ?? 'none runs';
        await mustRun(a, ['cancel', id.slice(0, 8)]);
        return id;
      });
    }),
  );
  const id = await cancelling;
  await assertFailed(cancelled, /^DELTAHOP_E_CANCELLED$/, /cancel/);
  assert.is((await jobs()).find((job) => job.id === id)?.state, 'cancelled');
  await assertNextTryWorks();
});

check('a short cut while the rounds run is bridged', async () => {
  const { link } = bench.testbed;
  await bench.client.refill();
  let cut: Promise<void> | null = null;
  const bridged = await tryHop(
    whenPhaseIsThrough('rounds', 0.3, () => {
      cut = link
        .cut()
        .then(() => sleep(3000))
        .then(() => link.mend());
    }),
  );
  assert.ok(cut !== null, 'the link was cut');
  await cut;
  assert.is(bridged.summary.error, undefined, bridged.stderr);
  assert.is(bridged.summary.result, 'moved');
  before = await bench.assertGoesOnFrom(before);
  await bench.assertConnectionWhole();
  const { a, b } = bench.testbed;
  assert.is((await hop(b, bench.service.name, a.agentAddress)).summary.result, 'moved');
});

check('nobody listens at the destination', async () => {
  const { a } = bench.testbed;
  const nobody = await hop(a, bench.service.name, '10.99.0.2:7999');
  await assertFailed(nobody, /^DELTAHOP_E_(LINK|UNREACHABLE)$/, /10\.99\.0\.2:7999/);
  assert.is(nobody.exitCode, 1);
});

check('what is no address, no service, or no running service is refused by name', async () => {
  const { a, b } = bench.testbed;
  const address = await refused(a, ['migrate', bench.service.name, 'nowhere']);
  assert.is(address.code, 'DELTAHOP_E_INVALID_ARGUMENT');
  assert.match(address.message, /nowhere/);

  const unknown = await refused(a, ['migrate', 'no-such-service', b.agentAddress]);
  assert.is(unknown.code, 'DELTAHOP_E_NOT_FOUND');
  assert.match(unknown.message, /no-such-service/);

  const elsewhere = await refused(b, ['migrate', bench.service.name, a.agentAddress]);
  assert.is(elsewhere.code, 'DELTAHOP_E_OWNED_ELSEWHERE');

  await bench.assertUnharmedAtSource(before);
  await mustRun(a, ['service', 'stop', bench.service.name]);
  const stopped = await refused(a, ['migrate', bench.service.name, b.agentAddress]);
  assert.is(stopped.code, 'DELTAHOP_E_NOT_RUNNING');
  assert.match(stopped.message, new RegExp(bench.service.name));
});

check('nothing is left behind', async () => {
  await bench.assertLeavesNothing();
});

test.run();
