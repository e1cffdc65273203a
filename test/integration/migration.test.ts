/** The main job: a running container moves from a to b and back, and nobody notices but for a moment's wait. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as z from 'zod';
import { type DryRunView, dryRunSchema } from '../../src/agent/messages.js';
import { testUnless } from '../support/obstacle.js';
import { mustRun, type ProbeState } from '../testbed/probe/probe-service.js';
import { type Hop, hop } from './support/hop.js';
import { benchUnavailable, ProbeBench } from './support/probe-bench.js';
import { setUp } from './support/set-up.js';

const obstacle = benchUnavailable();
const check = testUnless(test, obstacle);

const mib = 1024 * 1024;
const sizes = { baseMib: 6, appMib: 3, memoryMib: 8, changes: 1 };
/** The demo's bound on a user's wait is 2000 ms at 50 Mbit/s; a machine that runs other tests as well is given twice that. */
const longestGapMs = 4000;

const range = z.strictObject({ low: z.number(), expected: z.number(), high: z.number() });
const verdict = z.enum(['within', 'below', 'above']);

/** The summary as the command line promises it to other tools. */
const summarySchema = z.strictObject({
  type: z.literal('summary'),
  service: z.string(),
  from: z.literal(['a', 'b']),
  to: z.literal(['a', 'b']),
  result: z.literal('moved'),
  totalMs: z.int().positive(),
  downtimeMs: z.int().positive(),
  downtime: z.array(
    z.strictObject({ stage: z.string(), ms: z.int().nonnegative(), driverMs: z.int().nonnegative().optional() }),
  ),
  bytesSent: z.int().positive(),
  bytesReceived: z.int().positive(),
  phases: z.array(
    z.strictObject({
      name: z.string(),
      ms: z.int().nonnegative(),
      bytesSent: z.int().nonnegative(),
      bytesReceived: z.int().nonnegative(),
    }),
  ),
  throttle: z.null(),
  forecast: z.strictObject({
    bytesSent: range,
    totalMs: range.nullable(),
    downtimeMs: range,
    came: z.strictObject({ bytesSent: verdict, totalMs: verdict.nullable(), downtimeMs: verdict }),
  }),
});

let bench: ProbeBench;
let before: ProbeState;
let foreseen: DryRunView;
let there: Hop;
let back: Hop;

function phase(of: Hop, name: string): Hop['summary']['phases'][number] {
  const found = of.summary.phases.find((candidate) => candidate.name === name);
  if (found === undefined) throw new Error(`the summary has no phase ${name}`);
  return found;
}

setUp(test, obstacle, async () => {
  bench = await ProbeBench.create({ sizes });
  before = await bench.client.state();
});

test.after(async () => {
  await bench?.testbed.dispose();
});

check('a dry run says what it would cost, and leaves no trace', async () => {
  const { a, b } = bench.testbed;
  const { code, stdout, stderr } = await a.cli(['migrate', bench.service.name, b.agentAddress, '--dry-run', '--json']);
  assert.is(code, 0, stdout + stderr);
  foreseen = dryRunSchema.parse(JSON.parse(stdout));
  assert.ok(foreseen.possible);
  assert.equal(
    foreseen.findings.filter(({ ok }) => !ok),
    [],
  );
  for (const name of ['running', 'criu', 'cpu', 'cgroup', 'lsm', 'bridge', 'address', 'space', 'memory', 'firewall']) {
    assert.ok(
      foreseen.findings.some((finding) => finding.name === name),
      `${name} was not looked at`,
    );
  }
  assert.equal(foreseen.wayBack, []);
  assert.equal(
    foreseen.missingLayers.map(({ name }) => name),
    ['probe-base', 'probe-app'],
  );
  assert.ok(foreseen.link.roundTripMs >= 20, `a round trip of ${foreseen.link.roundTripMs} ms`);
  // 50 Mbit/s are 6250 bytes a millisecond; a busy machine makes it less.
  assert.ok(foreseen.link.bytesPerMs > 100 && foreseen.link.bytesPerMs < 8000, `${foreseen.link.bytesPerMs} bytes/ms`);
  const order = ['migrate', bench.service.name, b.agentAddress, '--dry-run', '--json', '--on-commit', '/not/there'];
  const hooked = await a.cli(order);
  assert.is(hooked.code, 1);
  const refused = dryRunSchema.parse(JSON.parse(hooked.stdout)).findings.filter(({ ok }) => !ok);
  assert.equal(
    refused.map(({ name }) => name),
    ['hook'],
  );
  assert.equal(JSON.parse(await mustRun(b, ['service', 'list', '--json'])).services, []);
  await bench.assertGoesOnFrom(before);
  const text = await a.cli(['migrate', bench.service.name, b.agentAddress, '--dry-run']);
  assert.ok(text.stdout.startsWith(`${bench.service.name} can move from a to b\n`), text.stdout);
  assert.match(text.stdout, /\n {2}down for [^\n]* to [^\n]*\n$/);
});

check('a running service moves to another node', async () => {
  await bench.client.report();
  there = await hop(bench.testbed.a, bench.service.name, bench.testbed.b.agentAddress);
  assert.is(there.summary.error, undefined);
  assert.is(there.summary.result, 'moved');
  assert.is(there.exitCode, 0, there.stderr);
});

check('the probe goes on from where it was: memory, pipe, timers, files, deletions', async () => {
  before = await bench.assertGoesOnFrom(before);
});

check('the established connection has lost and doubled nothing', async () => {
  const gapMs = await bench.assertConnectionWhole();
  assert.ok(gapMs < longestGapMs, `the user waited ${gapMs} ms`);
});

check('--json prints one object a line, phases in order, and the summary last', () => {
  const last = there.lines.at(-1) ?? '';
  summarySchema.parse(JSON.parse(last));
  assert.is(there.lines.filter((line) => line.includes('"type":"summary"')).length, 1);
  for (const line of there.lines) assert.type((JSON.parse(line) as { type: unknown }).type, 'string');

  const names = ['preflight', 'base', 'app', 'rounds', 'freeze', 'final', 'hand-off', 'verify'];
  assert.equal(
    there.summary.phases.map(({ name }) => name),
    names,
  );
  const told = there.events.flatMap((event) => (event.type === 'phase' ? [`${event.name} ${event.state}`] : []));
  assert.equal(
    told,
    names.flatMap((name) => [`${name} start`, `${name} end`]),
  );
  assert.ok(
    there.events.some((event) => event.type === 'round'),
    'at least one round while the service runs',
  );
  assert.ok(
    there.events.some((event) => event.type === 'progress'),
    'progress',
  );
});

check('the figures are those of what was moved', () => {
  const { summary } = there;
  assert.is(summary.service, bench.service.name);
  assert.equal([summary.from, summary.to], ['a', 'b']);
  // Incompressible data crosses the socket as it is.
  const expect = (name: string, bytesSent: number, dataMib: number): void => {
    const most = (dataMib + 2) * 1.1 * mib;
    assert.ok(bytesSent >= dataMib * mib && bytesSent < most, `${name} sent ${bytesSent} bytes for ${dataMib} MiB`);
  };
  expect('base', phase(there, 'base').bytesSent, sizes.baseMib);
  expect('app', phase(there, 'app').bytesSent, sizes.appMib);
  const rounds = there.events.flatMap((event) => (event.type === 'round' ? [event.bytesSent] : []));
  expect('the first round', rounds[0] ?? 0, sizes.memoryMib);
  for (const later of rounds.slice(1)) assert.ok(later < (rounds[0] ?? 0) / 2, `rounds of ${rounds} bytes: deltas`);
  assert.ok(phase(there, 'final').bytesSent < (sizes.memoryMib * mib) / 4, 'the final delta is one');
  for (const side of ['bytesSent', 'bytesReceived'] as const) {
    const sum = summary.phases.reduce((total, figures) => total + figures[side], 0);
    assert.ok(
      sum <= summary[side] && sum > 0.98 * summary[side] - 4096,
      `${side}: phases ${sum}, in all ${summary[side]}`,
    );
  }
  assert.ok((summary.downtimeMs ?? 0) <= summary.totalMs);
  const stages = summary.downtime.reduce((total, { ms }) => total + ms, 0);
  assert.ok(
    Math.abs(stages - (summary.downtimeMs ?? 0)) <= summary.downtime.length,
    `stages of ${stages} ms, a downtime of ${summary.downtimeMs} ms`,
  );
  // How many bytes it takes does not depend on how busy this machine is.
  const { low, high } = foreseen.forecast.bytesSent;
  assert.ok(
    low <= summary.bytesSent && summary.bytesSent <= high,
    `${summary.bytesSent} bytes, ${low} to ${high} said`,
  );
  // 17 MiB at 50 Mbit/s take 2.8 s: faster would mean that the figures, or the link, are not real.
  assert.ok(summary.totalMs > 2500, `${summary.totalMs} ms`);
});

check('the link has carried what the summary says', async () => {
  const { aToB } = await bench.testbed.link.stats();
  const { bytesSent } = there.summary;
  assert.ok(
    aToB.carriedBytes > bytesSent && aToB.carriedBytes < bytesSent * 1.25 + 100_000,
    `the link carried ${aToB.carriedBytes} bytes, the summary says ${bytesSent}`,
  );
});

check('both nodes tell the truth about it', async () => {
  const { a, b } = bench.testbed;
  const [departed, owned] = [await bench.inspect(a), await bench.inspect(b)];
  assert.is(departed.ownership, 'departed');
  assert.is(departed.state, 'stopped');
  assert.is(departed.movedTo, b.agentAddress);
  assert.is(owned.ownership, 'owned');
  assert.is(owned.state, 'running');
  assert.is(owned.epoch, 2);
  for (const [node, state] of [
    [a, 'stopped'],
    [b, 'running'],
  ] as const) {
    const listed = JSON.parse(await mustRun(node, ['service', 'list', '--json'])) as
      | { name: string; state: string }[]
      | { services: { name: string; state: string }[] };
    const services = Array.isArray(listed) ? listed : listed.services;
    assert.equal(
      services.map((service) => [service.name, service.state]),
      [[bench.service.name, state]],
    );
  }
});

check('the node that gave it up refuses to start it', async () => {
  const { code, stdout, stderr } = await bench.testbed.a.cli(['service', 'start', bench.service.name]);
  assert.is.not(code, 0);
  assert.match(stdout + stderr, /DELTAHOP_E_OWNED_ELSEWHERE/);
});

check('it moves back: no layer is sent, and little else', async () => {
  await bench.client.report();
  back = await hop(bench.testbed.b, bench.service.name, bench.testbed.a.agentAddress);
  assert.is(back.summary.error, undefined);
  assert.is(back.summary.result, 'moved');
  summarySchema.parse(back.summary);
  for (const name of ['base', 'app']) assert.is(phase(back, name).bytesSent, 0, `phase ${name}`);
  assert.ok(
    back.summary.bytesSent < there.summary.bytesSent / 4,
    `the way back cost ${back.summary.bytesSent} bytes, the way there ${there.summary.bytesSent}`,
  );
});

check('after two hops it is still the same service on the same connection', async () => {
  await bench.assertGoesOnFrom(before);
  const gapMs = await bench.assertConnectionWhole();
  assert.ok(gapMs < longestGapMs, `the user waited ${gapMs} ms`);
  const [owned, departed] = [await bench.inspect(bench.testbed.a), await bench.inspect(bench.testbed.b)];
  assert.equal([owned.ownership, owned.state, owned.epoch], ['owned', 'running', 3]);
  assert.equal([departed.ownership, departed.state], ['departed', 'stopped']);
});

check('a service that has moved can be stopped, started and removed like any other', async () => {
  const { a } = bench.testbed;
  await mustRun(a, ['service', 'stop', bench.service.name]);
  assert.is((await bench.inspect(a)).state, 'stopped');
  await mustRun(a, ['service', 'start', bench.service.name]);
  const fresh = await bench.service.watch(bench.testbed);
  const state = await fresh.state();
  assert.is.not(state.life, before.life);
  const { root } = await fresh.verify();
  assert.equal(
    Object.entries(root).filter(([, good]) => !good),
    [],
  );
  fresh.end();
  await mustRun(a, ['service', 'stop', bench.service.name]);
  await mustRun(a, ['service', 'rm', bench.service.name]);
  await mustRun(a, ['layer', 'rm', 'probe-app']);
  await mustRun(a, ['layer', 'rm', 'probe-base']);
});

check('nothing is left behind', async () => {
  await bench.assertLeavesNothing();
});

test.run();
