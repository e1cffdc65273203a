import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ServiceStore } from '../../../src/agent/services.js';
import { loadEngine } from '../../../src/engine/engine.js';
import { type ErrorCode, isDeltahopError } from '../../../src/errors.js';
import { LayerStore } from '../../../src/layers/store.js';
import type { ServiceRecord } from '../../../src/migrate/ownership.js';
import { flattenImage } from '../../../src/workload/qemu/image.js';
import { makeApp, makeBase, scratchDirectory } from '../layers/scratch.js';

const test = suite('agent/services');
const scratch = scratchDirectory('services');
let layers: LayerStore;
let base = '';
let app = '';
let stores = 0;

test.before(async () => {
  makeBase(join(scratch, 'base'));
  makeApp(join(scratch, 'app'));
  layers = await LayerStore.open(join(scratch, 'layers'), loadEngine(), flattenImage);
  const from = (name: string): string => join(scratch, name);
  base = (await layers.import({ kind: 'base', name: 'base', parent: null, path: from('base') })).layer.digest;
  app = (await layers.import({ kind: 'app', name: 'app', parent: 'base', path: from('app') })).layer.digest;
});

async function newStore(): Promise<{ store: ServiceStore; path: string }> {
  stores += 1;
  const path = join(scratch, `services-${stores}`);
  return { store: await ServiceStore.open(path, layers), path };
}

function record(name: string, epoch = 1): ServiceRecord {
  const owned = { ownership: 'owned', movedTo: null } as const;
  return {
    name,
    driver: 'lxc',
    base,
    app,
    settings: { memory: '64M' },
    command: ['/bin/true'],
    health: null,
    epoch,
    ...owned,
  };
}

async function rejects(work: Promise<unknown>, code: ErrorCode, message: RegExp): Promise<void> {
  try {
    await work;
  } catch (error) {
    assert.ok(isDeltahopError(error, code), String(error));
    assert.match(error.message, message);
    return;
  }
  assert.unreachable(`expected ${code}`);
}

test('a record is there again after opening', async () => {
  const { store, path } = await newStore();
  assert.is(await store.read('web'), null);
  await store.compareAndSet('web', null, record('web'));
  const again = await ServiceStore.open(path, layers);
  assert.equal(await again.read('web'), record('web'));
  assert.equal(again.list(), [record('web')]);
  assert.is(again.workload(record('web')).path, join(path, 'web/workload'));
  assert.is(again.workload(record('web')).basePath, layers.contentPath(base));
  await store.remove('web');
});

test('the epoch decides who may write, and only rises', async () => {
  const { store } = await newStore();
  await store.compareAndSet('web', null, record('web', 3));
  await rejects(store.compareAndSet('web', null, record('web', 4)), 'DELTAHOP_E_EPOCH', /it is at 3/);
  await rejects(store.compareAndSet('web', 2, record('web', 4)), 'DELTAHOP_E_EPOCH', /owner 2 was expected/);
  await rejects(store.compareAndSet('web', 3, record('web', 2)), 'DELTAHOP_E_EPOCH', /owner 2 to follow/);
  await rejects(store.compareAndSet('db', 1, record('db')), 'DELTAHOP_E_EPOCH', /there is none/);
  await store.compareAndSet('web', 3, { ...record('web', 4), ownership: 'departed', movedTo: 'b:1' });
  assert.throws(
    () => store.getOwned('web'),
    (error: unknown) => isDeltahopError(error, 'DELTAHOP_E_OWNED_ELSEWHERE') && /moved to b:1/.test(error.message),
  );
  await store.remove('web');
});

test('of two that change the same epoch one wins', async () => {
  const { store } = await newStore();
  await store.compareAndSet('web', null, record('web'));
  const tries = await Promise.allSettled(
    Array.from({ length: 8 }, () => store.compareAndSet('web', 1, record('web', 2))),
  );
  assert.is(tries.filter(({ status }) => status === 'fulfilled').length, 1);
  await store.remove('web');
});

test('its layers stay as long as the service is known', async () => {
  const { store, path } = await newStore();
  await store.compareAndSet('web', null, record('web'));
  await rejects(layers.remove('app'), 'DELTAHOP_E_IN_USE', /service web/);
  await store.remove('web');
  assert.not(existsSync(join(path, 'web')));
  await store.compareAndSet('web', null, record('web'));
  await rejects(layers.remove('base'), 'DELTAHOP_E_IN_USE', /service web/);
  await store.remove('web');
});

test('one operation at a time, and the refusal names the one that runs', async () => {
  const { store } = await newStore();
  const end = store.begin('web', 'its migration to b:1');
  assert.is(store.operation('web'), 'its migration to b:1');
  await rejects(
    store.exclusively('web', 'its stop', async () => {}),
    'DELTAHOP_E_BUSY',
    /web: its migration to b:1 is under way/,
  );
  await store.exclusively('db', 'its stop', async () => {});
  end();
  await store.exclusively('web', 'its start', async () => {
    // An end that is said twice must not end what began since.
    end();
    assert.is(store.operation('web'), 'its start');
  });
  await store
    .exclusively('web', 'its stop', async () => {
      throw new Error('failed');
    })
    .catch(() => {});
  assert.is(store.operation('web'), null);
});

test('what a killed write left is removed on opening', async () => {
  const { store, path } = await newStore();
  await store.compareAndSet('web', null, record('web'));
  writeFileSync(join(path, 'web/service.json.1.tmp'), '{"fo');
  assert.is((await ServiceStore.open(path, layers)).list().length, 1);
  assert.equal(readdirSync(join(path, 'web')), ['service.json']);
});

test('what an unfinished removal left is no service; what is damaged is named', async () => {
  const { path } = await newStore();
  mkdirSync(join(path, 'half/workload'), { recursive: true });
  assert.equal((await ServiceStore.open(path, layers)).list(), []);
  mkdirSync(join(path, 'web'));
  writeFileSync(join(path, 'web/service.json'), JSON.stringify({ format: 1, ...record('db') }));
  await rejects(ServiceStore.open(path, layers), 'DELTAHOP_E_CORRUPT', /web\/service\.json describes db/);
  writeFileSync(join(path, 'web/service.json'), JSON.stringify({ format: 2, ...record('web') }));
  await rejects(ServiceStore.open(path, layers), 'DELTAHOP_E_CORRUPT', /web\/service\.json: format/);
});

test.run();
