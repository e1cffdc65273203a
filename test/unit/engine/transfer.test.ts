import { mkdirSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadEngine, type OperationReport, type Progress, type SendOptions } from '../../../src/engine/engine.js';
import { isDeltahopError } from '../../../src/errors.js';
import { duplexPair } from '../../support/duplex-pair.js';
import { noise } from '../../support/edits.js';
import { withScratch } from '../../support/scratch.js';
import { describeTree, makeTree, treeEntries } from '../../support/tree.js';

const engine = loadEngine();

async function socketPair(): Promise<[Socket, Socket]> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  const connected = connect(address.port, '127.0.0.1');
  const pair: [Socket, Socket] = [await accepted, connected];
  server.close();
  return pair;
}

/** Sends over a pair of streams: both reports. */
async function transfer(
  source: string,
  target: string,
  [left, right]: readonly [Duplex, Duplex],
  options: SendOptions = {},
): Promise<[OperationReport, OperationReport]> {
  return await Promise.all([engine.send(source, left, options), engine.receive(target, right)]);
}

/** Both outcomes of a transfer that may fail. */
async function attempt(source: string, target: string, [left, right]: readonly [Duplex, Duplex]): Promise<unknown[]> {
  const settle = (promise: Promise<unknown>): Promise<unknown> =>
    promise.then(
      () => null,
      (error: unknown) => error,
    );
  return await Promise.all([settle(engine.send(source, left)), settle(engine.receive(target, right))]);
}

/** A tree of a few megabytes that does not compress. */
function makeBulk(root: string): void {
  mkdirSync(join(root, 'many'), { recursive: true });
  for (let i = 0; i < 40; ++i) writeFileSync(join(root, 'many', `file-${i}`), noise(i, 20_000 + i));
  writeFileSync(join(root, 'large'), noise(100, 1_950_000));
}

test('what is over holds no file open, whether it went well or not and though nothing was collected', () =>
  withScratch(async (directory) => {
    const [source, target] = [join(directory, 'source'), join(directory, 'target')];
    mkdirSync(source);
    writeFileSync(join(source, 'file'), noise(1, 10_000));
    const open = (): string[] =>
      readdirSync('/proc/self/fd')
        .map((fd) => {
          try {
            return readlinkSync(`/proc/self/fd/${fd}`);
          } catch {
            return '';
          }
        })
        .filter((path) => path.startsWith(directory));
    await transfer(source, target, duplexPair().ends);
    assert.equal(open(), []);
    await engine.treeDigest(source);
    assert.equal(open(), []);
    const [left, right] = duplexPair().ends;
    const failures = attempt(source, target, [left, right]);
    left.destroy();
    assert.ok((await failures).every((failure) => failure !== null));
    assert.equal(open(), []);
  }));

test('any tree becomes any other, over pieces of any size', () =>
  withScratch(async (directory) => {
    let run = 0;
    const pieces = fc.constantFrom(1, 2, 3, 7, 1000, 65_536);
    await fc.assert(
      fc.asyncProperty(treeEntries(20_000), treeEntries(20_000), pieces, async (before, after, pieceBytes) => {
        const [source, target] = [join(directory, `source-${run}`), join(directory, `target-${run}`)];
        run += 1;
        makeTree(source, after);
        makeTree(target, before);
        await transfer(source, target, duplexPair({ pieceBytes }).ends);
        assert.is(describeTree(target), describeTree(source));
        const digests = await Promise.all([engine.treeDigest(source), engine.treeDigest(target)]);
        assert.equal(digests[0], digests[1]);
      }),
      { numRuns: 40 },
    );
  }));

test('one socket carries one transfer after another, either way', () =>
  withScratch(async (directory) => {
    const [a, b] = [join(directory, 'a'), join(directory, 'b')];
    const [left, right] = await socketPair();
    makeBulk(a);
    await transfer(a, b, [left, right]);
    assert.is(describeTree(b), describeTree(a));
    writeFileSync(join(b, 'many/file-7'), noise(999, 5000));
    await transfer(b, a, [right, left]);
    assert.is(describeTree(a), describeTree(b));
    const [sent] = await transfer(a, b, [left, right]);
    assert.is(sent.statistics['literalBytes'], 0);
    // The stream is as open as before, nobody listens on it and nothing is left in it.
    assert.equal([left.readableLength, left.listenerCount('readable'), left.destroyed], [0, 0, false]);
    const said = new Promise((resolve) => right.once('data', resolve));
    left.write('what comes next');
    assert.is(String(await said), 'what comes next');
    left.destroy();
    right.destroy();
  }));

test('what follows the last message stays in the stream', () =>
  withScratch(async (directory) => {
    makeBulk(join(directory, 'a'));
    for (let i = 0; i < 20; ++i) {
      const { ends } = duplexPair();
      const [left, right] = ends;
      // As soon as it is done, the sender speaks on; the receiver may not yet have heard that its own job is done.
      const sent = engine.send(join(directory, 'a'), left).then(() => left.write('next'));
      await Promise.all([sent, engine.receive(join(directory, 'b'), right)]);
      const said = await new Promise((resolve) => right.once('data', resolve));
      assert.is(String(said), 'next');
      left.destroy();
    }
  }));

test('a line that is cut again and again is gone on with, and what arrived is not sent twice', () =>
  withScratch(async (directory) => {
    const source = join(directory, 'source');
    makeBulk(source);
    const whole = duplexPair();
    await transfer(source, join(directory, 'clean'), whole.ends);
    const cleanBytes = whole.bytes();
    assert.ok(cleanBytes > 2_000_000);

    for (const cutAfterBytes of [700_001, 333_333]) {
      const target = join(directory, `target-${cutAfterBytes}`);
      let carried = 0;
      let cuts = 0;
      for (;;) {
        const { ends, bytes } = duplexPair({ cutAfterBytes });
        const outcomes = await attempt(source, target, ends);
        carried += bytes();
        if (outcomes.every((outcome) => outcome === null)) break;
        for (const outcome of outcomes) {
          if (outcome !== null && !isDeltahopError(outcome, 'DELTAHOP_E_TRUNCATED')) throw outcome;
        }
        cuts += 1;
        if (cuts > 40) throw new Error('it never comes to its end');
      }
      assert.is(describeTree(target), describeTree(source));
      assert.ok(cuts >= 2, `${cuts} cuts`);
      // Each try costs a manifest and at most what was in flight.
      const limit = cleanBytes * 1.25 + cuts * 100_000;
      assert.ok(carried < limit, `${carried} bytes crossed with ${cuts} cuts, ${cleanBytes} without`);
    }
  }));

test('a cut at any byte of a small transfer fails on both sides or on neither, and the next try succeeds', () =>
  withScratch(async (directory) => {
    const source = join(directory, 'source');
    makeTree(source, [
      { path: 'file', kind: 'file', seed: 1, bytes: 3000 },
      { path: 'more/file', kind: 'file', seed: 2, bytes: 300 },
      { path: 'link', kind: 'symlink', seed: 1, bytes: 0 },
    ]);
    const expected = describeTree(source);
    const whole = duplexPair();
    await transfer(source, join(directory, 'clean'), whole.ends);
    const step = Math.ceil(whole.bytes() / 60);
    for (let cutAfterBytes = 0; cutAfterBytes < whole.bytes(); cutAfterBytes += step) {
      const target = join(directory, `target-${cutAfterBytes}`);
      const outcomes = await attempt(source, target, duplexPair({ cutAfterBytes: Math.max(1, cutAfterBytes) }).ends);
      // The last message tells the sender: it alone may miss that all is done.
      if (outcomes[0] === null) throw new Error(`the sender believes in a transfer cut at ${cutAfterBytes}`);
      for (const outcome of outcomes) {
        if (outcome !== null && !isDeltahopError(outcome, 'DELTAHOP_E_TRUNCATED')) throw outcome;
      }
      await transfer(source, target, duplexPair().ends);
      assert.is(describeTree(target), expected);
    }
  }));

test('a damaged byte anywhere is an error on both sides, and never a wrong tree', () =>
  withScratch(async (directory) => {
    const source = join(directory, 'source');
    makeTree(source, [
      { path: 'file', kind: 'file', seed: 1, bytes: 3000 },
      { path: 'more/file', kind: 'file', seed: 2, bytes: 300 },
    ]);
    const expected = describeTree(source);
    const whole = duplexPair();
    await transfer(source, join(directory, 'clean'), whole.ends);
    let refused = 0;
    for (let at = 0; at < whole.bytes(); at += Math.ceil(whole.bytes() / 60)) {
      let seen = 0;
      const alter = (piece: Buffer): Buffer => {
        const here = at - seen;
        seen += piece.length;
        if (here < 0 || here >= piece.length) return piece;
        const damaged = Buffer.from(piece);
        damaged.writeUInt8(damaged.readUInt8(here) ^ 0x10, here);
        return damaged;
      };
      const target = join(directory, `target-${at}`);
      const { ends } = duplexPair({ alter });
      // As the layers above do: whoever fails hangs up.
      const hangUp = (promise: Promise<unknown>, end: Duplex): Promise<unknown> =>
        promise.catch((error: unknown) => {
          end.destroy();
          return error;
        });
      const patience = setTimeout(() => ends[0].destroy(), 3000);
      const outcomes = await Promise.all([
        hangUp(engine.send(source, ends[0]), ends[0]),
        hangUp(engine.receive(target, ends[1]), ends[1]),
      ]);
      clearTimeout(patience);
      if (outcomes.some((outcome) => isDeltahopError(outcome))) refused += 1;
      else assert.is(describeTree(target), expected);
      await transfer(source, target, duplexPair().ends);
      assert.is(describeTree(target), expected);
    }
    assert.ok(refused > 40, `${refused} refused`);
  }));

test('a stranger at the other end is a clear error', () =>
  withScratch(async (directory) => {
    makeBulk(join(directory, 'source'));
    mkdirSync(join(directory, 'target'));
    writeFileSync(join(directory, 'target/kept'), 'as it was');
    for (let i = 0; i < 20; ++i) {
      for (const run of [
        (end: Duplex) => engine.send(join(directory, 'source'), end),
        (end: Duplex) => engine.receive(join(directory, 'target'), end),
      ]) {
        const { ends } = duplexPair();
        ends[1].on('error', () => undefined).resume();
        ends[1].end(i === 0 ? Buffer.alloc(0) : noise(i * 31, i * 100));
        const outcome = await run(ends[0]).catch((error: unknown) => error);
        if (!isDeltahopError(outcome)) throw new Error(`taken: ${JSON.stringify(outcome)}`);
        ends[0].destroy();
      }
    }
    assert.equal(
      readdirSync(join(directory, 'target')).filter((name) => !name.startsWith('.')),
      ['kept'],
    );
  }));

test('an abort ends both sides soon, and what comes later works', () =>
  withScratch(async (directory) => {
    const source = join(directory, 'source');
    const target = join(directory, 'target');
    makeBulk(source);
    for (const side of [0, 1]) {
      const { ends } = duplexPair();
      const abort = new AbortController();
      const reason = new Error('enough');
      let seen = 0;
      const options = {
        signal: abort.signal,
        onProgress: (): void => {
          seen += 1;
          if (seen === 1) abort.abort(reason);
        },
      };
      const outcomes = await Promise.all(
        [
          engine.send(source, ends[0], side === 0 ? options : {}),
          engine.receive(target, ends[1], side === 1 ? options : {}),
        ].map((promise, i) =>
          promise.catch((error: unknown) => {
            ends[i === 0 ? 0 : 1].destroy();
            return error;
          }),
        ),
      );
      const own = outcomes[side];
      if (!isDeltahopError(own, 'DELTAHOP_E_CANCELLED')) throw new Error(`no cancellation: ${String(own)}`);
      assert.is(own.cause, reason);
      assert.ok(isDeltahopError(outcomes[1 - side]));
    }
    const before = new AbortController();
    before.abort();
    const { ends } = duplexPair();
    const outcome = await engine.send(source, ends[0], { signal: before.signal }).catch((error: unknown) => error);
    assert.ok(isDeltahopError(outcome, 'DELTAHOP_E_CANCELLED'));
    await transfer(source, target, duplexPair().ends);
    assert.is(describeTree(target), describeTree(source));
  }));

test('progress rises to the whole', () =>
  withScratch(async (directory) => {
    makeBulk(join(directory, 'source'));
    const { ends } = duplexPair();
    const told: [Progress[], Progress[]] = [[], []];
    await Promise.all([
      engine.send(join(directory, 'source'), ends[0], { onProgress: (progress) => told[0].push(progress) }),
      engine.receive(join(directory, 'target'), ends[1], { onProgress: (progress) => told[1].push(progress) }),
    ]);
    checkProgress(told[0]);
    checkProgress(told[1]);
  }));

test('the first progress comes once the tree is listed: what is made then is not sent', () =>
  withScratch(async (directory) => {
    const [source, target] = [join(directory, 'source'), join(directory, 'target')];
    makeBulk(source);
    const atFirst = describeTree(source);
    const { ends } = duplexPair();
    let first = true;
    const onProgress = (): void => {
      if (first) writeFileSync(join(source, 'many', 'late'), 'late');
      first = false;
    };
    await Promise.all([engine.send(source, ends[0], { onProgress }), engine.receive(target, ends[1])]);
    assert.ok(readdirSync(join(source, 'many')).includes('late'));
    assert.is(describeTree(target), atFirst);
  }));

function checkProgress(told: readonly Progress[]): void {
  const last = told.at(-1);
  if (last === undefined) throw new Error('no progress was told');
  assert.is(last.doneBytes, last.totalBytes);
  assert.is(last.doneFiles, last.totalFiles);
  assert.ok(told.every((progress, i) => i === 0 || progress.doneBytes >= (told[i - 1]?.doneBytes ?? 0)));
}

test.run();
