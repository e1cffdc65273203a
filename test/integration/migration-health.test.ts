/** What comes after the hand-off, or instead of it: health and its policies, the hook, connections, the bound of a downtime. */
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ServiceView } from '../../src/agent/messages.js';
import { testUnless } from '../support/obstacle.js';
import { ended } from '../testbed/command.js';
import type { TestbedNode } from '../testbed/node.js';
import { mustRun, type ProbeState } from '../testbed/probe/probe-service.js';
import { type Hop, hop } from './support/hop.js';
import { benchUnavailable, ProbeBench } from './support/probe-bench.js';
import { setUp } from './support/set-up.js';

const obstacle = benchUnavailable();
const check = testUnless(test, obstacle);

let bench: ProbeBench;
let before: ProbeState;

/** Adds another service of the bench's layers on node a, and starts it. */
async function add(name: string, address: string, options: readonly string[]): Promise<string> {
  const { a, id } = bench.testbed;
  const service = `${name}-${id}`;
  await mustRun(a, [
    ...['service', 'add', service, '--driver', 'lxc', '--base', 'probe-base', '--app', 'probe-app'],
    ...['--set', `ip=${address}/24`, ...options, '--', '/opt/probe/probe', '7000', '1', '1'],
  ]);
  await mustRun(a, ['service', 'start', service]);
  return service;
}

async function at(node: TestbedNode, service: string): Promise<[string, string]> {
  const view = JSON.parse(await mustRun(node, ['service', 'inspect', service, '--json'])) as ServiceView;
  return [view.ownership, view.state];
}

async function fails(service: string): Promise<Hop> {
  const failed = await hop(bench.testbed.a, service, bench.testbed.b.agentAddress);
  assert.is(failed.summary.result, 'failed-health', JSON.stringify(failed.summary.error));
  assert.is(failed.summary.error?.code, 'DELTAHOP_E_HEALTH');
  assert.match(failed.summary.health?.detail ?? '', /tcp:1: .*ECONNREFUSED/);
  assert.is(failed.exitCode, 1);
  return failed;
}

/** Nobody listens at port 1. */
const ill = (policy: string): string[] => ['--health', 'tcp:1', '--health-limit', '1', '--health-fails', policy];

setUp(test, obstacle, async () => {
  bench = await ProbeBench.create({ serviceOptions: ['--health', 'tcp:7000', '--health-for', '0.5'] });
  before = await bench.client.state();
});

test.after(async () => {
  await bench?.testbed.dispose();
});

check('a downtime above its bound is not had: the service runs on', async () => {
  const { a, b } = bench.testbed;
  const argv = ['migrate', bench.service.name, b.agentAddress, '--max-downtime', '0.001'];
  const { code, stderr } = await a.cli(argv, { timeoutMs: 60_000 });
  assert.is(code, 1);
  assert.match(stderr, /DELTAHOP_E_TIMEOUT/);
  assert.match(stderr, /runs on here/);
  await bench.assertUnharmedAtSource(before);
});

check('a service whose probe holds has moved, and the hook hears of it', async () => {
  const { a, b } = bench.testbed;
  const hook = join(bench.testbed.directory, 'hook');
  writeFileSync(hook, `#!/bin/sh\nenv >${hook}.out\n`, { mode: 0o755 });
  await mustRun(a, ['migrate', bench.service.name, b.agentAddress, '--on-commit', hook, '--json']);
  const told = readFileSync(`${hook}.out`, 'utf8');
  for (const line of [
    `DELTAHOP_SERVICE=${bench.service.name}`,
    'DELTAHOP_FROM=a',
    'DELTAHOP_TO=b',
    `DELTAHOP_TO_ADDRESS=${b.agentAddress}`,
    'DELTAHOP_EPOCH=2',
  ]) {
    assert.ok(told.split('\n').includes(line), `${line} is not in ${told}`);
  }
  before = await bench.assertGoesOnFrom(before);
  await bench.assertConnectionWhole();
  // A hook that fails keeps nobody.
  const out = await mustRun(b, ['migrate', bench.service.name, a.agentAddress, '--on-commit', '/bin/false', '--json']);
  const events = out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { type: string; message?: string; result?: string });
  assert.ok(events.some(({ type, message }) => type === 'warning' && message?.includes('/bin/false')));
  assert.is(events.at(-1)?.result, 'moved');
  await bench.assertGoesOnFrom(before);
});

check('a migration goes on when its terminal goes away, and can be watched from another', async () => {
  const { a, b } = bench.testbed;
  const left = a.spawnCli(['migrate', bench.service.name, b.agentAddress, '--json'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  await once(left.stdout ?? left, 'data');
  left.kill('SIGKILL');
  await ended(left, 5000);
  const { jobs } = JSON.parse(await mustRun(a, ['jobs', '--json'])) as { jobs: { id: string; state: string }[] };
  const job = jobs.at(-1);
  assert.is(job?.state, 'running');
  const watched = (await mustRun(a, ['watch', job?.id ?? '', '--json'])).trim().split('\n');
  assert.is((JSON.parse(watched.at(-1) ?? '') as { result: string }).result, 'moved');
  const progress = watched
    .map((line) => JSON.parse(line) as { type: string; bytesPerSecond?: unknown; expectedDowntimeMs?: unknown })
    .find(({ type, expectedDowntimeMs }) => type === 'progress' && expectedDowntimeMs !== null);
  assert.type(progress?.expectedDowntimeMs, 'number');
  assert.ok(progress !== undefined && 'bytesPerSecond' in progress && 'etaMs' in progress);
  before = await bench.assertGoesOnFrom(before);
});

check('one that does not become well goes back, if its policy says so', async () => {
  const service = await add('back', '10.77.0.11', ill('back'));
  const { summary } = await fails(service);
  assert.is(summary.health?.kept, 'source');
  assert.equal(await at(bench.testbed.a, service), ['owned', 'running']);
  assert.equal(await at(bench.testbed.b, service), ['departed', 'stopped']);
});

check('or stays, and its files at the source are dropped', async () => {
  const service = await add('keep', '10.77.0.12', ill('keep'));
  const { summary } = await fails(service);
  assert.is(summary.health?.kept, 'destination');
  assert.equal(await at(bench.testbed.a, service), ['departed', 'stopped']);
  assert.equal(await at(bench.testbed.b, service), ['owned', 'running']);
  await mustRun(bench.testbed.a, ['recover']);
});

check('or both copies are kept until the operator has chosen', async () => {
  const { a, b } = bench.testbed;
  for (const [keep, address, here, there] of [
    ['source', '10.77.0.13', ['owned', 'running'], ['departed', 'stopped']],
    ['destination', '10.77.0.14', ['departed', 'stopped'], ['owned', 'running']],
  ] as const) {
    const service = await add(`ask-${keep}`, address, ill('ask'));
    const { summary } = await fails(service);
    assert.is(summary.health?.kept, 'both');
    assert.match(summary.error?.remedy ?? '', /resolve SERVICE --keep/);
    assert.equal(await at(a, service), ['departed', 'stopped']);
    assert.equal(await at(b, service), ['owned', 'running']);
    await mustRun(a, ['resolve', service, '--keep', keep]);
    assert.equal(await at(a, service), here);
    assert.equal(await at(b, service), there);
  }
});

check('open connections are closed rather than kept, if the service says so', async () => {
  const { a, b } = bench.testbed;
  const service = await add('closes', '10.77.0.15', ['--set', 'tcp=close']);
  const client = await bench.service.watchAt(bench.testbed, '10.77.0.15');
  await mustRun(a, ['migrate', service, b.agentAddress, '--json']);
  for (const deadline = Date.now() + 10_000; (await client.report()).connected; ) {
    if (Date.now() > deadline) throw new Error('its connection is still open');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  client.end();
  const fresh = await bench.service.watchAt(bench.testbed, '10.77.0.15');
  assert.ok((await fresh.report()).answered > 0, 'new ones are made');
  fresh.end();
});

check('nothing is left behind', async () => {
  await bench.assertLeavesNothing();
});

test.run();
