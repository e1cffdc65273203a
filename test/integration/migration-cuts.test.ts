/**
 * The link is cut in each phase and stays so. Until the hand-off is decided that must cost nothing but time: the error is
 * clear, the service runs on at the source, and the next try needs no cleaning up and no byte twice.
 *
 * Each cut takes as long as the patience with a dead link, so every phase has a testbed of its own and all wait together.
 */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { testUnless } from '../support/obstacle.js';
import { type Hop, hop, type Onlooker, whenPhaseIsThrough, whenPhaseStarts } from './support/hop.js';
import { type BenchOptions, benchUnavailable, ProbeBench } from './support/probe-bench.js';
import { setUp } from './support/set-up.js';

const obstacle = benchUnavailable();
const check = testUnless(test, obstacle);

const mib = 1024 * 1024;
/** Beyond the longest patience of any phase. */
const limitMs = 150_000;

/** What is found out about one cut, step by step; each step's assertions are those of its test. */
interface Course {
  failure: Promise<void>;
  nextTry: Promise<void>;
  cleanUp: Promise<void>;
}

/** A cut: where the bench's sizes make its phase long enough, and when the link goes. */
interface Cut {
  phase: string;
  options: BenchOptions;
  when: (act: () => void) => Onlooker;
}

const cuts: Cut[] = [
  {
    phase: 'base',
    options: { sizes: { baseMib: 12, appMib: 1, memoryMib: 2 } },
    when: (act) => whenPhaseIsThrough('base', 0.7, act),
  },
  {
    phase: 'app',
    options: { sizes: { baseMib: 1, appMib: 12, memoryMib: 2 } },
    when: (act) => whenPhaseIsThrough('app', 0.7, act),
  },
  {
    phase: 'rounds',
    options: { sizes: { baseMib: 1, appMib: 1, memoryMib: 16 } },
    when: (act) => whenPhaseIsThrough('rounds', 0.5, act),
  },
  { phase: 'final', options: {}, when: (act) => whenPhaseStarts('freeze', act) },
  { phase: 'hand-off', options: {}, when: (act) => whenPhaseStarts('hand-off', act) },
];

const courses = new Map<string, Course>();
const benches: ProbeBench[] = [];

/** Cuts the link, and asserts that the failure is clear and the service is well. */
async function assertFailure(bench: ProbeBench, { phase, when }: Cut): Promise<Hop> {
  const { testbed, service, client } = bench;
  const before = await client.state();
  let cutting: Promise<void> | null = null;
  const onEvent = when(() => {
    cutting = testbed.link.cut();
  });
  const timer = setTimeout(() => void testbed.link.mend(), limitMs);
  const failed = await hop(testbed.a, service.name, testbed.b.agentAddress, onEvent);
  clearTimeout(timer);
  assert.ok(cutting !== null, `the link was cut; the migration said: ${failed.lines.join('\n')}`);
  await cutting;
  assert.is(failed.summary.result, 'failed');
  assert.is(failed.exitCode, 1, failed.stderr);
  assert.is(failed.summary.phases.at(-1)?.name, phase, 'the phase that failed is the last one');
  const { code, message, remedy } = failed.summary.error ?? {};
  assert.match(code ?? '', /^DELTAHOP_E_(LINK|UNREACHABLE|TIMEOUT)$/, message ?? '');
  assert.match(message ?? '', testbed.b.address);
  assert.ok((remedy ?? '').length > 0);
  assert.ok(failed.summary.totalMs < limitMs, `it took ${failed.summary.totalMs} ms to find out`);
  await bench.assertUnharmedAtSource(before);
  return failed;
}

/** Mends the link, and asserts that the next try moves the service and sends nothing that had arrived. */
async function assertNextTry(bench: ProbeBench, { phase }: Cut, failed: Hop): Promise<void> {
  const { a, b, link } = bench.testbed;
  const before = await bench.client.state();
  const deliveredBytes = (await link.stats()).aToB.carriedBytes;
  await link.mend();
  const again = await hop(a, bench.service.name, b.agentAddress);
  assert.is(again.summary.error, undefined, again.stderr);
  assert.is(again.summary.result, 'moved');
  await bench.assertConnectionWhole();
  await bench.assertGoesOnFrom(before);
  const sentIn = (which: Hop, name: string): number | undefined =>
    which.summary.phases.find((figures) => figures.name === name)?.bytesSent;
  for (const name of ['base', 'app']) {
    const hadArrived = name !== phase && sentIn(failed, name) !== undefined;
    if (hadArrived) assert.is(sentIn(again, name), 0, `layer ${name} had arrived whole`);
  }
  if (phase === 'base' || phase === 'app') {
    const layerBytes = 12 * mib;
    const bytes = deliveredBytes + (sentIn(again, phase) ?? 0);
    assert.ok(deliveredBytes > layerBytes / 8, `${deliveredBytes} bytes had got through before the cut`);
    assert.ok(bytes < layerBytes * 1.1 + 4 * mib, `${bytes} bytes for a layer of ${layerBytes}`);
  }
}

function take(cut: Cut): Course {
  const bench = ProbeBench.create(cut.options).then((made) => {
    benches.push(made);
    return made;
  });
  const failed = bench.then((made) => assertFailure(made, cut));
  const nextTry = failed.then(async (hopThatFailed) => assertNextTry(await bench, cut, hopThatFailed));
  // After the step before, however that went; a bench that was not made has left nothing.
  const cleanUp = nextTry.catch(() => {}).then(async () => (await bench).assertLeavesNothing());
  // Awaited by their own tests; until then they must not count as unhandled.
  for (const step of [failed, nextTry, cleanUp]) step.catch(() => {});
  return { failure: failed.then(() => {}), nextTry, cleanUp };
}

function courseOf(phase: string): Course {
  const course = courses.get(phase);
  if (course === undefined) throw new Error(`no cut in ${phase}`);
  return course;
}

setUp(test, obstacle, async () => {
  for (const cut of cuts) {
    const course = take(cut);
    course.failure.catch(() => {});
    courses.set(cut.phase, course);
  }
});

test.after(async () => {
  await Promise.allSettled([...courses.values()].map(({ cleanUp }) => cleanUp));
  await Promise.all(benches.map((bench) => bench.testbed.dispose()));
});

for (const { phase } of cuts) {
  check(`cut in ${phase}: a clear error, and the service runs on at the source`, () => courseOf(phase).failure);
  check(
    `cut in ${phase}: the next try works, without cleaning up and without sending anything twice`,
    () => courseOf(phase).nextTry,
  );
  check(`cut in ${phase}: nothing is left behind`, () => courseOf(phase).cleanUp);
}

test.run();
