/** Syncs that remember: what the second one saves, and that nothing which is remembered wrongly ever shows in a tree. */
import {
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { loadEngine } from '../../../src/engine/engine.js';
import { SyncServer } from '../../../src/transfer/serve.js';
import {
  type PeerSync,
  type SyncOptions,
  type SyncReport,
  syncLocally,
  syncWithPeer,
} from '../../../src/transfer/sync.js';
import { SyncMemory } from '../../../src/transfer/sync-memory.js';
import { connectTcp } from '../../../src/transport/tcp.js';
import { syncPreamble } from '../../../src/wire/messages.js';
import { noise } from '../../support/edits.js';
import { withScratch } from '../../support/scratch.js';
import { describeTree } from '../../support/tree.js';

const test = suite('transfer/sync-memory');
const engine = loadEngine();
const plain: SyncOptions = {
  deleteOthers: true,
  maxDeletes: null,
  inPlace: false,
  dryRun: false,
  itemize: false,
  verify: false,
  durable: false,
  bytesPerSecond: null,
  silenceMs: null,
};
const imageBytes = 2 << 20;

function fill(path: string): void {
  mkdirSync(join(path, 'sub'), { recursive: true });
  writeFileSync(join(path, 'image'), noise(1, imageBytes));
  writeFileSync(join(path, 'sub/text'), noise(2, 30_000).toString('hex'));
  writeFileSync(join(path, 'stays'), noise(3, 100_000));
}

/** Changes eight bytes in some pages of the image, and a word of the text, where they lie. */
function edit(path: string, seed: number): void {
  const image = openSync(join(path, 'image'), 'r+');
  for (let page = seed; page < imageBytes / 4096; page += 20) writeSync(image, noise(seed, 8), 0, 8, page * 4096 + 64);
  closeSync(image);
  const text = openSync(join(path, 'sub/text'), 'r+');
  writeSync(text, `word ${seed}`, 1000 * seed);
  closeSync(text);
  // Two edits in one tick of the clock would look alike.
  for (const name of ['image', 'sub/text']) utimesSync(join(path, name), 1_600_000_000 + seed, 1_600_000_000 + seed);
}

interface World {
  /** Of this side's tree, of the tree at the server, and of what either remembers. */
  here: string;
  there: string;
  hereMemory: string;
  thereMemory: string;
  sync(direction: PeerSync['direction'], options?: Partial<SyncOptions>): Promise<SyncReport>;
}

/** A server, and a tree at each side. */
async function withServer(body: (world: World) => Promise<void>): Promise<void> {
  await withScratch(async (directory) => {
    const at = (name: string): string => join(directory, name);
    mkdirSync(at('module'));
    const server = await SyncServer.start({
      host: '127.0.0.1',
      port: 0,
      modules: [{ name: 'm', path: at('module'), readOnly: false }],
      memoryPath: at('server-memory'),
    });
    const sync: World['sync'] = async (direction, options = {}) => {
      const stream = await connectTcp({ host: '127.0.0.1', port: server.port, deadlineMs: 5000 });
      stream.duplex.write(syncPreamble);
      const peer: PeerSync = { direction, localPath: `${at('here')}/`, module: 'm', remotePath: 'tree/' };
      const memory = new SyncMemory(engine, at('memory'));
      return await syncWithPeer(engine, stream, peer, { ...plain, ...options }, { memory });
    };
    try {
      await body({
        here: at('here'),
        there: at('module/tree'),
        hereMemory: at('memory'),
        thereMemory: at('server-memory'),
        sync,
      });
    } finally {
      await server.close();
    }
  });
}

/** The one file of this name beneath a memory. */
function remembered(memory: string, name: string): string {
  const found = readdirSync(memory).filter((entry) => existsSync(join(memory, entry, name)));
  assert.is(found.length, 1, `${name}: ${found}`);
  return join(memory, found[0] ?? '', name);
}

function usedBasis({ sender, receiver }: SyncReport): boolean {
  return sender.statistics['basisRefused'] === 0 && receiver.statistics['basisRefused'] === 0;
}

for (const direction of ['send', 'receive'] as const) {
  test(`what changed goes over without signatures, and less of it than otherwise (${direction})`, () =>
    withServer(async ({ here, there, hereMemory, sync }) => {
      const [source, target] = direction === 'send' ? [here, there] : [there, here];
      fill(source);
      const first = await sync(direction);
      assert.equal([...first.sender.notes, ...first.receiver.notes], []);
      assert.is(statSync(hereMemory).mode & 0o777, 0o700);
      for (const seed of [1, 2]) {
        edit(source, seed);
        const next = await sync(direction);
        assert.is(describeTree(target), describeTree(source));
        assert.ok(usedBasis(next), JSON.stringify([next.sender.statistics, next.receiver.statistics]));
        assert.is(next.receiver.statistics['signatureBytes'], 0);
        const bytes = next.bytesSent + next.bytesReceived;
        assert.ok(bytes < 6000, `${bytes} bytes for 26 words in a tree of 2 MiB`);
      }
      const settled = await sync(direction);
      assert.is(settled.sender.statistics['basisSettled'], 1);
    }));
}

test('a target that somebody else has changed is not taken for what it was', () =>
  withServer(async ({ here, there, sync }) => {
    fill(here);
    await sync('send');
    edit(there, 7);
    edit(here, 1);
    const report = await sync('send');
    assert.is(report.receiver.statistics['basisRefused'], 1);
    assert.is(describeTree(there), describeTree(here));
    edit(here, 2);
    assert.ok(usedBasis(await sync('send')), 'and the next one is at home again');
    assert.is(describeTree(there), describeTree(here));
  }));

test('a copy or a record that is damaged, forged or gone costs bytes and nothing else', () =>
  withServer(async ({ here, there, hereMemory, thereMemory, sync }) => {
    fill(here);
    await sync('send');
    const damages: [name: string, damage: () => void][] = [
      ['no copy record', () => writeFileSync(remembered(hereMemory, 'copy.record'), '')],
      [
        'half a record',
        () => {
          const path = remembered(thereMemory, 'tree.record');
          writeFileSync(path, readFileSync(path).subarray(0, 40));
        },
      ],
      ['a directory for a record', () => mkdirSync(`${remembered(hereMemory, 'source.record')}.new`)],
      [
        'another image of the same size and time',
        () => {
          const path = remembered(hereMemory, 'copy/image');
          const { atime, mtime } = statSync(path);
          writeFileSync(path, noise(9, imageBytes));
          utimesSync(path, atime, mtime);
        },
      ],
      [
        'the record of another tree',
        () => {
          writeFileSync(remembered(hereMemory, 'copy.record'), readFileSync(remembered(hereMemory, 'source.record')));
        },
      ],
    ];
    for (const [at, [name, damage]] of damages.entries()) {
      damage();
      edit(here, at + 1);
      const report = await sync('send');
      assert.ok(report.isComplete, name);
      assert.is(describeTree(there), describeTree(here), name);
    }
  }));

test('a dry run and a comparison of contents leave what is remembered alone', () =>
  withServer(async ({ here, there, hereMemory, sync }) => {
    fill(here);
    await sync('send', { dryRun: true });
    assert.not(existsSync(there));
    await sync('send');
    const before = lstatSync(remembered(hereMemory, 'copy.record'), { bigint: true });
    edit(here, 1);
    await sync('send', { dryRun: true });
    await sync('send', { verify: true });
    assert.is(lstatSync(remembered(hereMemory, 'copy.record'), { bigint: true }).ino, before.ino);
    assert.is(describeTree(there), describeTree(here));
  }));

/** Of a sync on one machine. */
function placesIn(directory: string): { source: string; target: string; state: string } {
  return { source: join(directory, 'source'), target: join(directory, 'target'), state: join(directory, 'state') };
}

test('on one machine the target itself is the basis, and no copy is made', () =>
  withScratch(async (directory) => {
    const { source, target, state } = placesIn(directory);
    fill(source);
    const sync = (): Promise<SyncReport> =>
      syncLocally(engine, `${source}/`, `${target}/`, plain, { memory: new SyncMemory(engine, state) });
    await sync();
    edit(source, 1);
    const report = await sync();
    assert.ok(usedBasis(report), JSON.stringify(report.sender.statistics));
    assert.is(describeTree(target), describeTree(source));
    assert.equal(
      readdirSync(state)
        .flatMap((name) => readdirSync(join(state, name)))
        .sort(),
      ['source.record', 'tree.record'],
    );
  }));

test('where nothing can be kept the sync is done all the same, and says so', () =>
  withScratch(async (directory) => {
    const { source, target, state } = placesIn(directory);
    fill(source);
    writeFileSync(state, 'a file');
    const { receiver, isComplete } = await syncLocally(engine, `${source}/`, `${target}/`, plain, {
      memory: new SyncMemory(engine, state),
    });
    assert.ok(isComplete);
    assert.match(receiver.notes.join('\n'), /no record was kept/);
    assert.is(describeTree(target), describeTree(source));
  }));

test('of too many memories the one that was not used for longest goes', () =>
  withScratch(async (directory) => {
    const state = join(directory, 'state');
    const memory = new SyncMemory(engine, state);
    const place = (number: number) => ({ rootPath: join(directory, `tree-${number}`), part: {} });
    for (let number = 0; number < 64; ++number) {
      const path = join((await memory.receiver(place(number)))?.recordPath ?? '', '..');
      utimesSync(path, 1000 + number, 1000 + number);
    }
    const oldest = await memory.receiver(place(0));
    await memory.receiver(place(64));
    assert.is(readdirSync(state).length, 64);
    assert.ok(existsSync(join(oldest?.recordPath ?? '', '..')), 'it was used since');
    assert.not(readdirSync(state).some((name) => statSync(join(state, name)).mtimeMs === 1001_000));
  }));

test.run();
