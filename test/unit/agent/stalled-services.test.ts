import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ServiceStore } from '../../../src/agent/services.js';
import { StalledServices } from '../../../src/agent/stalled-services.js';
import { loadEngine } from '../../../src/engine/engine.js';
import { LayerStore } from '../../../src/layers/store.js';
import { Journal } from '../../../src/migrate/journal.js';
import type { WorkloadDriver } from '../../../src/workload/driver.js';
import { flattenImage } from '../../../src/workload/qemu/image.js';
import { makeApp, makeBase, scratchDirectory } from '../layers/scratch.js';

const test = suite('agent/stalled-services');
const scratch = scratchDirectory('stalled');
const intervalMs = 5;
const longestPauseMs = 20;

let services: ServiceStore;
let journal: Journal;

test.before(async () => {
  const at = (name: string): string => join(scratch, name);
  makeBase(at('base'));
  makeApp(at('app'));
  mkdirSync(at('journal'), { recursive: true });
  const layers = await LayerStore.open(at('layers'), loadEngine(), flattenImage);
  const base = (await layers.import({ kind: 'base', name: 'base', parent: null, path: at('base') })).layer.digest;
  const app = (await layers.import({ kind: 'app', name: 'app', parent: 'base', path: at('app') })).layer.digest;
  services = await ServiceStore.open(at('services'), layers);
  journal = await Journal.open(at('journal'), null);
  const described = { driver: 'paper', base, app, settings: {}, command: [], health: null, epoch: 1, movedTo: null };
  for (const [name, ownership] of [
    ['here', 'owned'],
    ['moving', 'owned'],
    ['deciding', 'owned'],
    ['gone', 'departed'],
  ] as const) {
    await services.compareAndSet(name, null, { ...described, name, ownership });
  }
  await journal.write({
    format: 1,
    side: 'source',
    migration: '5f0c1b7e-57b5-4b0e-9a8c-0d5f4a4f6a11',
    service: 'deciding',
    epoch: 1,
    peer: '127.0.0.1:1',
    state: 'frozen',
    startedAtMs: 1,
    changedAtMs: 1,
    acknowledged: false,
    takenBack: false,
    peerName: null,
    onCommit: null,
    announcedEpoch: null,
    untoldEpoch: null,
  });
});

/** Looks until `enough` is true. @returns the services that were asked for, and those that went on. */
async function look(
  resumeStalled: WorkloadDriver['resumeStalled'],
  enough: (asked: readonly string[]) => boolean,
): Promise<{ asked: string[]; resumed: string[] }> {
  const asked: string[] = [];
  const resumed: string[] = [];
  const driver = {
    resumeStalled: async (workload) => {
      asked.push(workload.name);
      return await resumeStalled(workload);
    },
  } as Partial<WorkloadDriver> as WorkloadDriver;
  const limits = { intervalMs, longestPauseMs };
  const stalled = new StalledServices(
    services,
    journal,
    () => driver,
    (service) => resumed.push(service),
    limits,
  );
  for (const deadline = Date.now() + 10_000; !enough(asked); await sleep(1)) {
    assert.ok(Date.now() < deadline, `asked for ${asked.join(' ')}`);
  }
  await stalled.close();
  return { asked, resumed };
}

test('only what is owned here and in no operation is looked at, again and again, until it has room', async () => {
  const end = services.begin('moving', 'its migration');
  let looks = 0;
  const { asked, resumed } = await look(
    async () => ++looks === 3,
    (seen) => seen.length >= 5,
  );
  end();
  assert.equal([...new Set(asked)], ['here']);
  assert.equal(resumed, ['here']);
});

test('one that can not be looked at keeps none from the others', async () => {
  const { asked, resumed } = await look(
    async ({ name }) => {
      if (name === 'here') throw new Error('no answer');
      return true;
    },
    (seen) => seen.filter((name) => name === 'here').length >= 2 && seen.includes('moving'),
  );
  assert.not.ok(asked.includes('gone'));
  assert.not.ok(asked.includes('deciding'));
  assert.not.ok(resumed.includes('here'));
  assert.ok(resumed.includes('moving'));
});

test.run();
