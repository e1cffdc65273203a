/** A sync between two places of this machine, with the real engine. */
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { duplexPair } from 'node:stream';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { loadEngine } from '../../../src/engine/engine.js';
import { isDeltahopError } from '../../../src/errors.js';
import { type SyncOptions, type SyncReport, syncLocally } from '../../../src/transfer/sync.js';
import { meansContents } from '../../../src/transfer/sync-place.js';
import { noise } from '../../support/edits.js';
import { withScratch } from '../../support/scratch.js';
import { describeTree } from '../../support/tree.js';

const test = suite('transfer/sync');
const engine = loadEngine();
const plain: SyncOptions = {
  deleteOthers: false,
  maxDeletes: null,
  inPlace: false,
  dryRun: false,
  itemize: true,
  verify: false,
  durable: false,
  bytesPerSecond: null,
  silenceMs: null,
};

async function sync(from: string, to: string, options: Partial<SyncOptions> = {}): Promise<SyncReport> {
  return await syncLocally(engine, from, to, { ...plain, ...options }, {});
}

async function failsWith(code: string, work: Promise<unknown>): Promise<void> {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  assert.ok(isDeltahopError(error), `${code} expected, not ${String(error)}`);
  assert.is(error.code, code, error.message);
}

/** A small tree with one of each; returns its path. */
function makeSource(directory: string): string {
  const source = join(directory, 'source');
  mkdirSync(join(source, 'sub'), { recursive: true });
  writeFileSync(join(source, 'file'), 'hello');
  linkSync(join(source, 'file'), join(source, 'hard'));
  writeFileSync(join(source, 'sub/large'), noise(1, 300_000));
  symlinkSync('file', join(source, 'soft'));
  utimesSync(join(source, 'sub'), 1_600_000_000, 1_600_000_000);
  utimesSync(source, 1_600_000_000, 1_600_000_000);
  return source;
}

test('a slash at the end means what is in it, none the directory itself', () =>
  withScratch(async (directory) => {
    const source = makeSource(directory);
    await sync(`${source}/`, join(directory, 'contents'));
    assert.is(describeTree(join(directory, 'contents')), describeTree(source));
    await sync(source, join(directory, 'whole'));
    assert.equal(readdirSync(join(directory, 'whole')), ['source']);
    assert.is(describeTree(join(directory, 'whole/source')), describeTree(source));
    for (const path of ['', 'a/', '.', 'a/.', '..', 'a/..', '/']) assert.ok(meansContents(path), path);
    for (const path of ['a', '/a', 'a/.b', 'a/...']) assert.not(meansContents(path), path);
  }));

test('a second run finds nothing to do and sends next to nothing', () =>
  withScratch(async (directory) => {
    const source = makeSource(directory);
    const target = join(directory, 'target');
    await sync(`${source}/`, target);
    const again = await sync(`${source}/`, target);
    assert.is(again.items, '');
    assert.ok(again.bytesSent < 200, String(again.bytesSent));
    assert.ok(again.isComplete);
  }));

test('a single file goes into a directory, or becomes the target, and touches nothing beside it', () =>
  withScratch(async (directory) => {
    const source = makeSource(directory);
    const place = join(directory, 'place');
    mkdirSync(place);
    writeFileSync(join(place, 'beside'), 'mine');
    const before = statSync(place);
    await sync(join(source, 'file'), place, { deleteOthers: true });
    assert.is(readFileSync(join(place, 'file'), 'utf8'), 'hello');
    assert.is(readFileSync(join(place, 'beside'), 'utf8'), 'mine');
    assert.is(statSync(place).mode, before.mode);
    await sync(join(source, 'sub/large'), join(place, 'renamed'));
    assert.equal(readFileSync(join(place, 'renamed')), noise(1, 300_000));
    await sync(join(source, 'soft'), join(place, 'link'));
    assert.is(readlinkSync(join(place, 'link')), 'file');
    await sync(join(source, 'file'), join(directory, 'fresh/'));
    assert.is(readFileSync(join(directory, 'fresh/file'), 'utf8'), 'hello');
    // A file over one that differs in the middle: the rest is not sent again.
    const edited = noise(1, 300_000);
    edited.write('edited', 150_000);
    writeFileSync(join(source, 'sub/large'), edited);
    const update = await sync(join(source, 'sub/large'), join(place, 'renamed'));
    assert.equal(readFileSync(join(place, 'renamed')), edited);
    assert.ok(update.bytesSent < 30_000, String(update.bytesSent));
    assert.is(update.items, '>f..t...... renamed\n');
  }));

test('nothing is deleted unless that is asked for', () =>
  withScratch(async (directory) => {
    const source = makeSource(directory);
    const target = join(directory, 'target');
    await sync(`${source}/`, target);
    mkdirSync(join(target, 'own'));
    writeFileSync(join(target, 'own/file'), 'mine');
    assert.ok((await sync(`${source}/`, target)).isComplete);
    assert.is(readFileSync(join(target, 'own/file'), 'utf8'), 'mine');
    const { items } = await sync(`${source}/`, target, { deleteOthers: true });
    assert.match(items, /^\*deleting {3}own\/file\n\*deleting {3}own\/\n/);
    assert.is(describeTree(target), describeTree(source));
  }));

test('a directory that is not empty makes way for a file only with --delete', () =>
  withScratch(async (directory) => {
    const source = makeSource(directory);
    const target = join(directory, 'target');
    mkdirSync(join(target, 'file'), { recursive: true });
    writeFileSync(join(target, 'file/inside'), 'mine');
    mkdirSync(join(target, 'soft'));
    const report = await sync(`${source}/`, target);
    assert.not(report.isComplete);
    assert.match(report.receiver.notes.join('\n'), /^file: not made, a directory that is not empty/m);
    assert.is(readFileSync(join(target, 'file/inside'), 'utf8'), 'mine');
    assert.is(readlinkSync(join(target, 'soft')), 'file', 'an empty one does');
    assert.ok((await sync(`${source}/`, target, { deleteOthers: true })).isComplete);
    assert.is(describeTree(target), describeTree(source));
  }));

test('a dry run writes nothing and lists what a run then lists', () =>
  withScratch(async (directory) => {
    const source = makeSource(directory);
    const target = join(directory, 'target');
    const nothing = await sync(`${source}/`, target, { dryRun: true });
    assert.not(existsSync(target));
    assert.is(nothing.items, (await sync(`${source}/`, target)).items);
    writeFileSync(join(target, 'other'), 'mine');
    writeFileSync(join(source, 'file'), 'changed');
    const before = describeTree(target);
    const dry = await sync(`${source}/`, target, { dryRun: true, deleteOthers: true });
    assert.is(describeTree(target), before);
    assert.ok(dry.bytesSent < 1000, 'no content is sent');
    assert.match(dry.items, /^>f\.st\.\.\.\.\.\. file$/m);
    assert.is((await sync(`${source}/`, target, { deleteOthers: true })).items, dry.items);
    assert.is(describeTree(target), describeTree(source));
  }));

test('contents that differ under the same size and time are found with --checksum', () =>
  withScratch(async (directory) => {
    const source = makeSource(directory);
    const target = join(directory, 'target');
    await sync(`${source}/`, target);
    const { atime, mtime } = statSync(join(source, 'file'));
    writeFileSync(join(target, 'file'), 'jello');
    utimesSync(join(target, 'file'), atime, mtime);
    utimesSync(join(source, 'file'), atime, mtime);
    utimesSync(join(target, 'file'), atime, mtime);
    await sync(`${source}/`, target);
    assert.is(readFileSync(join(target, 'file'), 'utf8'), 'jello');
    const { items } = await sync(`${source}/`, target, { verify: true });
    assert.match(items, /^>fc/m);
    assert.is(readFileSync(join(target, 'file'), 'utf8'), 'hello');
  }));

test('the bandwidth bound holds', () =>
  withScratch(async (directory) => {
    const source = join(directory, 'source');
    mkdirSync(source);
    const bytes = 600_000;
    writeFileSync(join(source, 'noise'), noise(7, bytes));
    const bytesPerSecond = 400_000;
    const startedAtMs = performance.now();
    await sync(`${source}/`, join(directory, 'target'), { bytesPerSecond });
    const ms = performance.now() - startedAtMs;
    // Never faster than the bound, but for what may go at once at the start.
    assert.ok(ms > (bytes / bytesPerSecond) * 1000 - 300, `${ms} ms`);
    assert.equal(readFileSync(join(directory, 'target/noise')), noise(7, bytes));
  }));

test('a cancelled sync keeps what arrived, and the next one goes on from there', () =>
  withScratch(async (directory) => {
    const source = join(directory, 'source');
    const target = join(directory, 'target');
    mkdirSync(source);
    for (let i = 0; i < 8; i += 1) writeFileSync(join(source, `f${i}`), noise(i, 400_000));
    const stop = new AbortController();
    const cut = syncLocally(
      engine,
      `${source}/`,
      target,
      { ...plain, bytesPerSecond: 4_000_000 },
      {
        signal: stop.signal,
        onProgress: ({ doneBytes }) => {
          if (doneBytes > 1_600_000) stop.abort();
        },
      },
    );
    await failsWith('DELTAHOP_E_CANCELLED', cut);
    const rest = await sync(`${source}/`, target);
    assert.is(describeTree(target), describeTree(source));
    assert.ok(rest.bytesSent < 8 * 400_000 - 1_200_000, `${rest.bytesSent} bytes after the cut`);
    assert.not(existsSync(join(target, '.deltahop-partial')));
  }));

test('what cannot be meant is refused', () =>
  withScratch(async (directory) => {
    const source = makeSource(directory);
    await failsWith('DELTAHOP_E_NOT_FOUND', sync(join(directory, 'none'), join(directory, 'target')));
    await failsWith('DELTAHOP_E_NOT_FOUND', sync(source, join(directory, 'no/such/parent')));
    await failsWith('DELTAHOP_E_INVALID_ARGUMENT', sync(join(source, 'file/'), join(directory, 'target')));
    await failsWith('DELTAHOP_E_INVALID_ARGUMENT', sync(source, join(source, 'file')));
    await failsWith('DELTAHOP_E_INVALID_ARGUMENT', sync(`${source}/`, join(source, 'sub')));
    await failsWith('DELTAHOP_E_INVALID_ARGUMENT', sync(`${source}/sub/`, source, { deleteOthers: true }));
    assert.equal(readdirSync(directory), ['source']);
  }));

test('a receiver that asked for one entry takes nothing else from a sender', () =>
  withScratch(async (directory) => {
    const source = makeSource(directory);
    const place = join(directory, 'place');
    mkdirSync(place);
    const [left, right] = duplexPair();
    const outcomes = await Promise.allSettled([
      engine.send(source, left),
      engine.receive(place, right, { entryName: 'file', deleteOthers: false }),
    ]);
    assert.equal(
      outcomes.map(({ status }) => status),
      ['rejected', 'rejected'],
    );
    assert.equal(readdirSync(place), []);
    for (const entryName of ['..', '.', 'a/b', '', '.deltahop-partial']) {
      const [near, far] = duplexPair();
      const ends = await Promise.allSettled([engine.send(source, near), engine.receive(place, far, { entryName })]);
      const received = ends[1];
      assert.ok(
        received?.status === 'rejected' && isDeltahopError(received.reason, 'DELTAHOP_E_UNSAFE_PATH'),
        entryName,
      );
    }
  }));

test.run();
