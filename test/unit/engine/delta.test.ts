import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadEngine, type SignatureOptions } from '../../../src/engine/engine.js';
import { type ErrorCode, isDeltahopError } from '../../../src/errors.js';
import { editedPair, noise } from '../../support/edits.js';
import { collect, inPieces } from '../../support/pieces.js';
import { withScratch } from '../../support/scratch.js';

const engine = loadEngine();
const boundarySizes = [0, 1, 2, 511, 512, 513, 4095, 4096, 4097, 65_535, 65_537, 1_048_575, 1_048_576, 1_048_577];

async function failsWith(code: ErrorCode, promise: Promise<unknown>): Promise<void> {
  const outcome = await promise.then(
    () => 'no error',
    (error: unknown) => error,
  );
  if (!isDeltahopError(outcome, code)) throw new Error(`expected ${code}, got ${String(outcome)}`);
  assert.match(outcome.message, /^[^\n]+$/);
}

/** Through files: signature, delta and patch, each into a path. The bytes of the delta. */
async function throughFiles(
  directory: string,
  basis: Buffer,
  target: Buffer,
  options: SignatureOptions = {},
): Promise<Buffer> {
  const path = (name: string): string => join(directory, name);
  writeFileSync(path('basis'), basis);
  writeFileSync(path('target'), target);
  await engine.signature(path('basis'), path('signature'), options);
  const { statistics } = await engine.delta(path('signature'), path('target'), path('delta'));
  await engine.patch(path('basis'), path('delta'), path('result'));
  if (!readFileSync(path('result')).equals(target)) throw new Error('the result is not the target');
  assert.is(
    (statistics['matchedBytes'] ?? 0) + (statistics['literalBytes'] ?? 0) + (statistics['zeroBytes'] ?? 0),
    target.length,
  );
  assert.equal(readdirSync(directory).sort(), ['basis', 'delta', 'result', 'signature', 'target']);
  return readFileSync(path('delta'));
}

/** Through streams in pieces of a size; only the basis of a patch must be a file. */
async function throughStreams(directory: string, basis: Buffer, target: Buffer, pieceBytes: number): Promise<void> {
  const path = join(directory, 'basis');
  writeFileSync(path, basis);
  const signature = await collect((output) => engine.signature(inPieces(basis, pieceBytes), output));
  const delta = await collect((output) =>
    engine.delta(inPieces(signature, pieceBytes), inPieces(target, pieceBytes), output),
  );
  const result = await collect((output) => engine.patch(path, inPieces(delta, pieceBytes), output));
  if (!result.equals(target)) throw new Error('the result is not the target');
}

test('any edit of any file survives signature, delta and patch', () =>
  withScratch(async (directory) => {
    const blockBytes = fc.constantFrom(0, 512, 1024, 4096, 65_536);
    await fc.assert(
      fc.asyncProperty(editedPair(40_000), blockBytes, async ({ basis, target }, size) => {
        await throughFiles(directory, basis, target, size === 0 ? {} : { blockBytes: size });
      }),
      { numRuns: 120 },
    );
  }));

test('any edit survives streams of pieces of any size', () =>
  withScratch(async (directory) => {
    await fc.assert(
      fc.asyncProperty(editedPair(40_000), fc.constantFrom(61, 997, 4096, 65_536), ({ basis, target }, pieceBytes) =>
        throughStreams(directory, basis, target, pieceBytes),
      ),
      { numRuns: 30 },
    );
    await fc.assert(
      fc.asyncProperty(editedPair(1500), fc.constantFrom(1, 2, 3, 7), ({ basis, target }, pieceBytes) =>
        throughStreams(directory, basis, target, pieceBytes),
      ),
      { numRuns: 20 },
    );
  }));

test('sizes around every border, each against each neighbour', () =>
  withScratch(async (directory) => {
    for (const [i, size] of boundarySizes.entries()) {
      const other = boundarySizes[(i * 5 + 3) % boundarySizes.length] ?? 0;
      await throughFiles(directory, noise(1, size), noise(1, other));
      await throughFiles(directory, noise(1, other), noise(2, size));
    }
  }));

test('an unchanged file costs no literals, whatever its size', () =>
  withScratch(async (directory) => {
    for (const size of boundarySizes) {
      const bytes = noise(3, size);
      const delta = await throughFiles(directory, bytes, bytes);
      assert.ok(delta.length < 200, `${delta.length} bytes of delta for ${size} unchanged ones`);
    }
  }));

test('a patch may replace its own basis', () =>
  withScratch(async (directory) => {
    const path = (name: string): string => join(directory, name);
    const target = Buffer.concat([noise(5, 70_000), noise(4, 300_000)]);
    await throughFiles(directory, noise(4, 300_000), target);
    await engine.patch(path('basis'), path('delta'), path('basis'));
    assert.ok(readFileSync(path('basis')).equals(target));
  }));

test('a truncated delta is DELTAHOP_E_TRUNCATED and changes no file', () =>
  withScratch(async (directory) => {
    const delta = await throughFiles(directory, noise(6, 50_000), Buffer.concat([noise(7, 9000), noise(6, 50_000)]));
    writeFileSync(join(directory, 'result'), 'as it was');
    const lengths = [0, 1, 7, 8, 20, 100, delta.length >> 1, delta.length - 33, delta.length - 1];
    for (const length of lengths) {
      const cut = delta.subarray(0, length);
      await failsWith(
        'DELTAHOP_E_TRUNCATED',
        engine.patch(join(directory, 'basis'), inPieces(cut, 64), join(directory, 'result')),
      );
    }
    assert.is(readFileSync(join(directory, 'result'), 'utf8'), 'as it was');
    assert.is(readdirSync(directory).length, 5);
  }));

test('a corrupted or random stream is refused and changes no file', () =>
  withScratch(async (directory) => {
    const target = Buffer.concat([noise(8, 20_000), noise(9, 60_000)]);
    const delta = await throughFiles(directory, noise(9, 60_000), target);
    const [basis, result] = [join(directory, 'basis'), join(directory, 'result')];
    writeFileSync(result, 'as it was');
    let refused = 0;
    const tryOne = async (bytes: Buffer): Promise<void> => {
      const outcome = await engine.patch(basis, inPieces(bytes, 4096), result).catch((error: unknown) => error);
      if (!isDeltahopError(outcome)) throw new Error(`taken: ${String(outcome)}`);
      refused += 1;
      assert.is(readFileSync(result, 'utf8'), 'as it was');
    };
    for (let i = 0; i < 150; ++i) {
      const damaged = Buffer.from(delta);
      const at = i < 60 ? i : (i * 2_654_435_761) % damaged.length;
      damaged.writeUInt8(damaged.readUInt8(at) ^ (1 << (i % 8)), at);
      await tryOne(damaged);
    }
    for (let i = 0; i < 50; ++i) await tryOne(noise(i, 1 + i * 37));
    await tryOne(Buffer.concat([delta, Buffer.from('more')]));
    assert.is(refused, 201);
    assert.is(readdirSync(directory).length, 5);
  }));

test('a corrupted or random signature never makes a wrong file', () =>
  withScratch(async (directory) => {
    const path = (name: string): string => join(directory, name);
    const target = Buffer.concat([noise(8, 20_000), noise(9, 60_000)]);
    await throughFiles(directory, noise(9, 60_000), target);
    const signature = readFileSync(path('signature'));
    for (let i = 0; i < 100; ++i) {
      const damaged = Buffer.from(signature);
      const at = i < 50 ? i : (i * 2_654_435_761) % damaged.length;
      damaged.writeUInt8(damaged.readUInt8(at) ^ (1 << (i % 8)), at);
      const outcome = await engine
        .delta(inPieces(damaged, 999), path('target'), path('delta'))
        .catch((error: unknown) => error);
      if (!isDeltahopError(outcome)) throw new Error(`damage at ${at} of the signature was not noticed`);
    }
    await failsWith(
      'DELTAHOP_E_TRUNCATED',
      engine.delta(inPieces(signature.subarray(0, -1), 10), path('target'), path('delta')),
    );
    await failsWith('DELTAHOP_E_CORRUPT', engine.delta(inPieces(noise(1, 300), 10), path('target'), path('delta')));
  }));

test('a delta against another basis is refused', () =>
  withScratch(async (directory) => {
    const path = (name: string): string => join(directory, name);
    await throughFiles(directory, noise(10, 50_000), Buffer.concat([Buffer.from('x'), noise(10, 50_000)]));
    writeFileSync(path('basis'), noise(11, 50_000));
    writeFileSync(path('result'), 'as it was');
    await failsWith('DELTAHOP_E_MISMATCH', engine.patch(path('basis'), path('delta'), path('result')));
    writeFileSync(path('basis'), noise(11, 50_001));
    await failsWith('DELTAHOP_E_MISMATCH', engine.patch(path('basis'), path('delta'), path('result')));
    assert.is(readFileSync(path('result'), 'utf8'), 'as it was');
  }));

test('what is missing or full is named', () =>
  withScratch(async (directory) => {
    const path = (name: string): string => join(directory, name);
    writeFileSync(path('basis'), 'basis');
    await failsWith('DELTAHOP_E_NOT_FOUND', engine.signature(path('absent'), path('signature')));
    await failsWith('DELTAHOP_E_NOT_FOUND', engine.delta(path('absent'), path('basis'), path('delta')));
    await failsWith('DELTAHOP_E_NOT_FOUND', engine.patch(path('basis'), path('absent'), path('result')));
    await failsWith('DELTAHOP_E_NOT_FOUND', engine.signature(path('basis'), path('absent/signature')));
    await failsWith('DELTAHOP_E_UNSUPPORTED', engine.signature(directory, path('signature')));
    assert.not(existsSync(path('signature')));
    if (!existsSync('/dev/full')) return;
    const { createWriteStream } = await import('node:fs');
    await failsWith('DELTAHOP_E_NO_SPACE', engine.signature(path('basis'), createWriteStream('/dev/full')));
  }));

test('a value out of its bounds is refused', () =>
  withScratch(async (directory) => {
    writeFileSync(join(directory, 'basis'), 'basis');
    const basis = join(directory, 'basis');
    for (const blockBytes of [511, 513, 3, 1 << 25]) {
      const outcome = await engine
        .signature(basis, join(directory, 's'), { blockBytes })
        .catch((error: unknown) => error);
      if (!(outcome instanceof Error)) throw new Error(`a block of ${blockBytes} bytes was taken`);
    }
  }));

test.run();
