import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { duplexPair } from 'node:stream';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { loadEngine } from '../../../src/engine/engine.js';
import { type ErrorCode, isDeltahopError } from '../../../src/errors.js';
import { LayerStore } from '../../../src/layers/store.js';
import { flattenImage } from '../../../src/workload/qemu/image.js';
import { testUnless } from '../../support/obstacle.js';
import { makeApp, makeBase, scratchDirectory } from './scratch.js';

const test = suite('layers/store');
const scratch = scratchDirectory('layers');
const engine = loadEngine();
let stores = 0;

async function newStore(): Promise<{ store: LayerStore; path: string }> {
  stores += 1;
  const path = join(scratch, `store-${stores}`);
  return { store: await LayerStore.open(path, engine, flattenImage), path };
}

async function rejects(work: Promise<unknown>, code: ErrorCode, message: RegExp): Promise<void> {
  try {
    await work;
  } catch (error) {
    assert.ok(isDeltahopError(error), String(error));
    assert.is(error.code, code);
    assert.match(error.message, message);
    return;
  }
  assert.unreachable(`expected ${code}`);
}

const baseTree = join(scratch, 'base-tree');
const appTree = join(scratch, 'app-tree');
test.before(() => {
  makeBase(baseTree);
  makeApp(appTree);
});

/** Sends a layer from one store into the staging directory of another, as a migration does. */
async function send(from: LayerStore, digest: string, toPath: string): Promise<void> {
  const [a, b] = duplexPair();
  await Promise.all([engine.send(from.contentPath(digest), a), engine.receive(toPath, b)]);
  a.destroy();
  b.destroy();
}

test('the same content has the same digest, from another directory and in another store', async () => {
  const other = join(scratch, 'another-place');
  makeBase(other);
  const first = await (await newStore()).store.import({ kind: 'base', name: 'debian', parent: null, path: baseTree });
  const second = await (await newStore()).store.import({ kind: 'base', name: 'other', parent: null, path: other });
  assert.is(first.layer.digest, second.layer.digest);
  assert.match(first.layer.digest, /^blake3:[0-9a-f]{64}$/);
});

test('kind and parent are part of the digest', async () => {
  const { store } = await newStore();
  const base = await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  const app = await store.import({ kind: 'app', name: 'a', parent: null, path: baseTree });
  assert.is(base.layer.tree, app.layer.tree);
  assert.is.not(base.layer.digest, app.layer.digest);
});

test('importing the same content again changes nothing', async () => {
  const { store, path } = await newStore();
  const first = await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  const app = await store.import({ kind: 'app', name: 'a', parent: 'b', path: appTree });
  const entries = readdirSync(path).sort();
  const again = await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  const appAgain = await store.import({ kind: 'app', name: 'a', parent: 'b', path: appTree });
  assert.is(again.layer.digest, first.layer.digest);
  assert.is(appAgain.layer.digest, app.layer.digest);
  assert.is(again.replaced, null);
  assert.equal(readdirSync(path).sort(), entries);
});

test('an imported tree equals its source in content and metadata', async () => {
  const { store } = await newStore();
  const { layer } = await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  assert.is((await engine.treeDigest(layer.contentPath)).digest, (await engine.treeDigest(baseTree)).digest);
});

test('an app layer holds the difference to its base only', async () => {
  const { store } = await newStore();
  const base = await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  const { layer } = await store.import({ kind: 'app', name: 'a', parent: 'b', path: appTree });
  assert.is(layer.parent, base.layer.digest);
  assert.not(existsSync(join(layer.contentPath, 'usr/bin/tool')), 'what the base has is not in the app');
  assert.is(readFileSync(join(layer.contentPath, 'etc/motd'), 'utf8'), 'welcome to the app\n');
});

const mountObstacle = process.getuid?.() === 0 ? null : 'mounting an overlay needs root';
testUnless(test, mountObstacle)('app upon base, mounted as an overlay, is the full tree', async () => {
  const { store } = await newStore();
  const { layer: base } = await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  const { layer: app } = await store.import({ kind: 'app', name: 'a', parent: 'b', path: appTree });
  const merged = join(scratch, 'merged');
  mkdirSync(merged);
  // A mount namespace of its own: nothing stays mounted, however this ends.
  const script = 'mount -t overlay none "$3" -o "lowerdir=$1:$2" && rsync -n -aHAXi --checksum --delete "$4/" "$3/"';
  const args = ['--mount', 'sh', '-c', script, 'sh', app.contentPath, base.contentPath, merged, appTree];
  const { status, stdout, stderr } = spawnSync('unshare', args, { encoding: 'utf8' });
  assert.is(status, 0, stderr);
  assert.is(stdout, '', 'rsync finds no difference');
});

test('a name moves to new content, and says what it was', async () => {
  const { store } = await newStore();
  const first = await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  const second = await store.import({ kind: 'base', name: 'b', parent: null, path: appTree });
  assert.is(second.replaced, first.layer.digest);
  assert.is(store.get('b').digest, second.layer.digest);
  assert.equal(store.get(first.layer.digest).names, []);
});

test('a layer is found by name, by digest and by the beginning of its digest', async () => {
  const { store } = await newStore();
  const { layer } = await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  const hex = layer.digest.slice('blake3:'.length);
  for (const reference of ['b', layer.digest, hex, hex.slice(0, 6), `blake3:${hex.slice(0, 10)}`]) {
    assert.is(store.get(reference).digest, layer.digest, reference);
  }
  for (const reference of ['c', hex.slice(0, 5), '', '../b', `${hex}0`]) {
    assert.throws(
      () => store.get(reference),
      (error: unknown) => isDeltahopError(error, 'DELTAHOP_E_NOT_FOUND'),
    );
  }
});

test('a layer that something needs is not removed, and the refusal says what needs it', async () => {
  const { store, path } = await newStore();
  await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  const { layer } = await store.import({ kind: 'app', name: 'a', parent: 'b', path: appTree });
  await rejects(store.remove('b'), 'DELTAHOP_E_IN_USE', /needed by layer a$/);
  const release = store.hold(layer.digest, 'service web');
  await rejects(store.remove('a'), 'DELTAHOP_E_IN_USE', /needed by service web$/);
  release();
  await store.remove('a');
  await store.remove('b');
  assert.equal(store.list(), []);
  assert.equal(readdirSync(path), ['names.json']);
});

test('of several names one goes, with the last one the layer', async () => {
  const { store } = await newStore();
  await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  await store.import({ kind: 'base', name: 'c', parent: null, path: baseTree });
  assert.is((await store.remove('b')).removed, 'name');
  assert.is((await store.remove('c')).removed, 'layer');
  assert.equal(store.list(), []);
});

test('layers and names are there again after opening; what an import left is not, what was arriving is', async () => {
  const { store, path } = await newStore();
  const { layer } = await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  mkdirSync(join(path, '.import-killed/content'), { recursive: true });
  const digest = `blake3:${'ab'.repeat(32)}`;
  writeFileSync(join(await store.receiveStaging(digest), 'half'), 'kept');
  const again = await LayerStore.open(path, engine, flattenImage);
  assert.is(again.get('b').digest, layer.digest);
  assert.not(existsSync(join(path, '.import-killed')));
  assert.is(readFileSync(join(await again.receiveStaging(digest), 'half'), 'utf8'), 'kept');
});

test('a damaged description is named', async () => {
  const { store, path } = await newStore();
  const { layer } = await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  const file = join(path, layer.digest.slice('blake3:'.length), 'layer.json');
  writeFileSync(file, readFileSync(file, 'utf8').replace('"base"', '"app"'));
  await rejects(LayerStore.open(path, engine, flattenImage), 'DELTAHOP_E_CORRUPT', /layer\.json/);
  writeFileSync(file, '{');
  await rejects(LayerStore.open(path, engine, flattenImage), 'DELTAHOP_E_CORRUPT', /is not JSON/);
});

test('a layer from another node is sealed under its digest and keeps its name', async () => {
  const source = (await newStore()).store;
  const { store, path } = await newStore();
  const { layer } = await source.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  const staging = await store.receiveStaging(layer.digest);
  await rejects(store.receiveStaging(layer.digest), 'DELTAHOP_E_BUSY', /arriving already/);
  await send(source, layer.digest, staging);
  const { digest, kind, form, parent, name } = layer;
  const announced = { digest, kind, form, parent, name };
  const sealed = await store.seal(announced);
  assert.is(sealed.digest, layer.digest);
  assert.is(sealed.name, 'b');
  assert.is((await store.seal(announced)).digest, layer.digest, 'asked a second time it says the same');
  assert.equal(readdirSync(path).sort(), [layer.digest.slice('blake3:'.length), 'names.json']);
});

test('a layer that arrives as something else is refused, and the next try starts afresh', async () => {
  const source = (await newStore()).store;
  const { store, path } = await newStore();
  const { layer } = await source.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  const staging = await store.receiveStaging(layer.digest);
  await send(source, layer.digest, staging);
  writeFileSync(join(staging, 'etc/motd'), 'tampered');
  const { digest, kind, form, parent, name } = layer;
  const announced = { digest, kind, form, parent, name };
  await rejects(store.seal(announced), 'DELTAHOP_E_MISMATCH', /arrived as blake3:/);
  assert.equal(store.list(), []);
  assert.equal(readdirSync(path), []);
  await send(source, layer.digest, await store.receiveStaging(layer.digest));
  assert.is((await store.seal(announced)).digest, layer.digest);
});

test('an import that fails leaves nothing behind', async () => {
  const { store, path } = await newStore();
  const input = { kind: 'base', name: 'b', parent: null } as const;
  await rejects(store.import({ ...input, path: join(scratch, 'nowhere') }), 'DELTAHOP_E_NOT_FOUND', /nowhere/);
  await rejects(store.import({ ...input, path: '/dev/null' }), 'DELTAHOP_E_INVALID_ARGUMENT', /neither a directory/);
  await rejects(store.import({ ...input, path: scratch }), 'DELTAHOP_E_INVALID_ARGUMENT', /the layer store itself/);
  await rejects(store.import({ ...input, name: '../b', path: baseTree }), 'DELTAHOP_E_INVALID_ARGUMENT', /layer name/);
  await rejects(store.import({ ...input, parent: 'x', path: baseTree }), 'DELTAHOP_E_NOT_FOUND', /no layer x/);
  const signal = AbortSignal.abort();
  await rejects(store.import({ ...input, path: baseTree }, { signal }), 'DELTAHOP_E_CANCELLED', /./);
  assert.equal(readdirSync(path), []);
});

test('an app layer is built upon a base layer, and a base layer upon nothing', async () => {
  const { store } = await newStore();
  await store.import({ kind: 'base', name: 'b', parent: null, path: baseTree });
  await store.import({ kind: 'app', name: 'a', parent: 'b', path: appTree });
  const base = store.import({ kind: 'base', name: 'c', parent: 'b', path: appTree });
  await rejects(base, 'DELTAHOP_E_INVALID_ARGUMENT', /no parent/);
  const app = store.import({ kind: 'app', name: 'c', parent: 'a', path: appTree });
  await rejects(app, 'DELTAHOP_E_INVALID_ARGUMENT', /must be a base layer/);
});

test('an import tells of its progress', async () => {
  const { store } = await newStore();
  const big = join(scratch, 'big');
  mkdirSync(big);
  writeFileSync(join(big, 'data'), Buffer.alloc(32 * 1024 * 1024, 'some data '));
  const seen: number[] = [];
  const onProgress = ({ doneBytes }: { doneBytes: number }): void => void seen.push(doneBytes);
  await store.import({ kind: 'base', name: 'big', parent: null, path: big }, { onProgress });
  rmSync(big, { recursive: true });
  assert.ok(seen.length > 0, 'at least once');
  assert.equal(
    seen,
    [...seen].sort((a, b) => a - b),
    'it only grows',
  );
});

test.run();
