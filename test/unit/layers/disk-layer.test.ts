/** Disks as layers, made and looked at by qemu-img itself. */
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { duplexPair } from 'node:stream';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { loadEngine } from '../../../src/engine/engine.js';
import { LayerStore, type StoredLayer } from '../../../src/layers/store.js';
import { writeAppImage } from '../../../src/workload/machine/app-image.js';
import { flattenImage } from '../../../src/workload/qemu/image.js';
import { testUnless } from '../../support/obstacle.js';
import { rejection } from '../../support/rejection.js';
import { scratchDirectory } from './scratch.js';

const test = suite('layers/disk-layer');
const missing =
  spawnSync('qemu-img', ['--version']).status === 0 ? null : 'qemu-img is missing: run test/setup/prepare.sh';
const check = testUnless(test, missing);
const scratch = scratchDirectory('disks');
const engine = loadEngine();
const mib = 1 << 20;
let stores = 0;

function at(name: string): string {
  return join(scratch, name);
}

async function newStore(): Promise<LayerStore> {
  stores += 1;
  return await LayerStore.open(at(`store-${stores}`), engine, flattenImage);
}

function tool(...argv: string[]): string {
  const [program = '', ...args] = argv;
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  assert.is(status, 0, `${argv.join(' ')}: ${stderr}${stdout}`);
  return stdout;
}

/** The base: 8 MiB of which some is data. The app: some of it changed, some zeroed, some new; and it is longer. */
function makeImages(): void {
  tool('qemu-img', 'create', '-q', '-f', 'raw', at('base.raw'), '8M');
  tool('qemu-io', '-f', 'raw', '-c', 'write -P 11 0 1M', '-c', 'write -P 12 3M 64k', at('base.raw'));
  tool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', at('base.raw'), at('base.qcow2'));
  tool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', '-c', at('base.raw'), at('packed.qcow2'));
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', at('base.qcow2'), '-F', 'qcow2', at('app.qcow2'), '9M');
  const writes = [
    'write -P 21 0 4k',
    'write -P 22 520k 8k',
    'write -z 3M 8k',
    'write -P 23 5M 100k',
    'write -P 24 8500k 4k',
  ];
  tool('qemu-io', '-f', 'qcow2', ...writes.flatMap((write) => ['-c', write]), at('app.qcow2'));
}

test.before(() => {
  if (missing === null) makeImages();
});

async function importBoth(store: LayerStore): Promise<{ base: StoredLayer; app: StoredLayer }> {
  const base = await store.import({ kind: 'base', name: 'b', parent: null, path: at('base.qcow2') });
  const app = await store.import({ kind: 'app', name: 'a', parent: 'b', path: at('app.qcow2') });
  return { base: base.layer, app: app.layer };
}

check('the same content has the same digest, however an image keeps it', async () => {
  const store = await newStore();
  const { base, app } = await importBoth(store);
  assert.is(base.form, 'disk');
  for (const name of ['base.raw', 'packed.qcow2']) {
    const again = await store.import({ kind: 'base', name: 'again', parent: null, path: at(name) });
    assert.is(again.layer.digest, base.digest, name);
  }
  tool('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', at('app.qcow2'), at('app.raw'));
  const whole = await store.import({ kind: 'app', name: 'whole', parent: 'b', path: at('app.raw') });
  assert.is(whole.layer.digest, app.digest);
});

check('an app layer holds what differs from its parent and nothing else', async () => {
  const { app } = await importBoth(await newStore());
  // 4 + 8 + 100 + 4 KiB; the zeroed blocks are holes.
  const { blocks, size } = statSync(join(app.contentPath, 'disk'));
  assert.is(size, 9 * mib);
  assert.is(blocks * 512, 116 * 1024);
});

check('QEMU sees the app upon its base as it was', async () => {
  const { base, app } = await importBoth(await newStore());
  const tables = at('tables.qcow2');
  await writeAppImage(app.contentPath, tables);
  const chain = (backing: boolean): string =>
    `json:${JSON.stringify({
      driver: 'qcow2',
      file: { driver: 'file', filename: tables },
      'data-file': { driver: 'file', filename: join(app.contentPath, 'disk') },
      ...(backing
        ? { backing: { driver: 'raw', file: { driver: 'file', filename: join(base.contentPath, 'disk') } } }
        : {}),
    })}`;
  tool('qemu-img', 'check', chain(false));
  tool('qemu-img', 'compare', chain(true), at('app.qcow2'));
});

check('the tables of a large disk, which are counted in several blocks, are right', async () => {
  const content = at('large');
  mkdirSync(content);
  const tables = 5 * 512;
  // One block in each 2 MiB, so that each of them has a table.
  const blocks = Buffer.alloc(tables * 64);
  writeFileSync(join(content, 'disk'), '');
  truncateSync(join(content, 'disk'), tables * 2 * mib);
  const disk = openSync(join(content, 'disk'), 'r+');
  for (let table = 0; table < tables; table++) {
    blocks[table * 64 + (table % 64)] = 1 << (table % 8);
    writeSync(
      disk,
      Buffer.alloc(4096, table % 251),
      0,
      4096,
      table * 2 * mib + ((table % 64) * 8 + (table % 8)) * 4096,
    );
  }
  closeSync(disk);
  writeFileSync(join(content, 'blocks'), blocks);
  await writeAppImage(content, at('large.qcow2'));
  const chain = `json:${JSON.stringify({
    driver: 'qcow2',
    file: { driver: 'file', filename: at('large.qcow2') },
    'data-file': { driver: 'file', filename: join(content, 'disk') },
  })}`;
  tool('qemu-img', 'check', chain);
  tool('qemu-img', 'compare', chain, join(content, 'disk'));
});

check('a disk and a tree do not go together, nor a disk without what it is upon', async () => {
  const store = await newStore();
  mkdirSync(at('tree'), { recursive: true });
  await store.import({ kind: 'base', name: 'tree', parent: null, path: at('tree') });
  const upon = store.import({ kind: 'app', name: 'a', parent: 'tree', path: at('app.qcow2') });
  assert.match(await rejection(upon, 'DELTAHOP_E_INVALID_ARGUMENT'), /is a disk, and tree is a tree/);
  const alone = store.import({ kind: 'app', name: 'a', parent: null, path: at('app.qcow2') });
  assert.match(await rejection(alone, 'DELTAHOP_E_INVALID_ARGUMENT'), /needs a parent/);
  await store.import({ kind: 'base', name: 'longer', parent: null, path: at('app.qcow2') });
  const shorter = store.import({ kind: 'app', name: 'a', parent: 'longer', path: at('base.qcow2') });
  assert.match(await rejection(shorter, 'DELTAHOP_E_INVALID_ARGUMENT'), /smaller than its parent/);
  writeFileSync(at('broken.qcow2'), Buffer.concat([Buffer.from('QFI\xfb', 'latin1'), Buffer.alloc(600, 255)]));
  const broken = store.import({ kind: 'base', name: 'x', parent: null, path: at('broken.qcow2') });
  assert.match(await rejection(broken, 'DELTAHOP_E_INVALID_ARGUMENT'), /qemu-img convert/);
});

/** Sends a layer's content as a migration does. */
async function send(from: LayerStore, digest: string, toPath: string): Promise<void> {
  const [a, b] = duplexPair();
  await Promise.all([engine.send(from.contentPath(digest), a), engine.receive(toPath, b)]);
  a.destroy();
  b.destroy();
}

check('a disk from another node is sealed upon its parent only, and only as what was announced', async () => {
  const source = await newStore();
  const store = await newStore();
  const { base, app } = await importBoth(source);
  await send(source, app.digest, await store.receiveStaging(app.digest));
  await rejection(store.seal(app), 'DELTAHOP_E_NOT_FOUND');
  await send(source, base.digest, await store.receiveStaging(base.digest));
  assert.is((await store.seal(base)).digest, base.digest);
  assert.is((await store.seal(app)).digest, app.digest);
  assert.is(store.get('a').form, 'disk');
});

check('a hostile node’s link in place of a disk is refused, though its digest is as announced', async () => {
  const source = await newStore();
  const { base } = await importBoth(source);
  const tampered = at('tampered');
  for (const [tamper, why] of [
    [() => symlinkSync('/etc/hostname', join(tampered, 'disk')), /not a file/],
    [() => copyFileSync(join(base.contentPath, 'disk'), join(tampered, 'other')), /it holds other/],
    [() => writeFileSync(join(tampered, 'disk'), 'odd'), /a disk of 3 bytes/],
  ] as const) {
    rmSync(tampered, { recursive: true, force: true });
    mkdirSync(tampered);
    tamper();
    const tree = (await engine.treeDigest(tampered)).digest;
    const digest = engine.digest(
      Buffer.from(JSON.stringify({ form: 'disk', format: 1, kind: 'base', parent: null, tree })),
    );
    const store = await newStore();
    const staging = await store.receiveStaging(digest);
    const [a, b] = duplexPair();
    await Promise.all([engine.send(tampered, a), engine.receive(staging, b)]);
    const refused = store.seal({ digest, kind: 'base', form: 'disk', parent: null, name: 'x' });
    assert.match(await rejection(refused, 'DELTAHOP_E_CORRUPT'), why);
    assert.equal(store.list(), []);
  }
});

test.run();
