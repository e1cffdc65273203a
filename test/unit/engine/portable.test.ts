import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import xxhash from 'xxhash-wasm';
import type { Engine } from '../../../src/engine/engine.js';
import { nativeEngine } from '../../../src/engine/native.js';
import { chooseBlockBytes, readSignature, writeSignature } from '../../../src/engine/portable/signature.js';
import { portableEngine } from '../../../src/engine/portable.js';
import { isDeltahopError } from '../../../src/errors.js';
import { editedPair, noise } from '../../support/edits.js';
import { collect, inPieces } from '../../support/pieces.js';
import { withScratch } from '../../support/scratch.js';

const native = nativeEngine();
const portable = await portableEngine();
const xxhashApi = await xxhash();
const engines: readonly Engine[] = [native, portable];

/** Signature by one engine, delta by another, patch by a third. */
async function roundTrip(
  directory: string,
  by: readonly [Engine, Engine, Engine],
  blockBytes?: number,
): Promise<Buffer> {
  const path = (name: string): string => join(directory, name);
  await by[0].signature(path('basis'), path('signature'), blockBytes === undefined ? {} : { blockBytes });
  await by[1].delta(path('signature'), path('target'), path('delta'));
  await by[2].patch(path('basis'), path('delta'), path('result'));
  return readFileSync(path('result'));
}

test('each engine reads what the other writes', () =>
  withScratch(async (directory) => {
    const choices = fc.tuple(...[0, 1, 2].map(() => fc.constantFrom(...engines)));
    await fc.assert(
      fc.asyncProperty(editedPair(15_000), choices, fc.constantFrom(512, 4096), async ({ basis, target }, by, size) => {
        writeFileSync(join(directory, 'basis'), basis);
        writeFileSync(join(directory, 'target'), target);
        const result = await roundTrip(directory, by as [Engine, Engine, Engine], size);
        if (!result.equals(target)) throw new Error(`wrong result by ${by.map((engine) => engine.name).join(', ')}`);
      }),
      { numRuns: 60 },
    );
  }));

test('signatures with the same key are the same, byte for byte', () =>
  withScratch(async (directory) => {
    const path = join(directory, 'basis');
    const check = async (basis: Buffer, blockBytes: number): Promise<void> => {
      writeFileSync(path, basis);
      const expected = await collect((output) => native.signature(path, output, { blockBytes }));
      const { key } = await readSignature(inPieces(expected, 4096));
      const written: Buffer[] = [];
      for await (const piece of writeSignature(inPieces(basis, 3000), blockBytes, key, xxhashApi)) written.push(piece);
      assert.ok(Buffer.concat(written).equals(expected), `${basis.length} bytes in blocks of ${blockBytes}`);
    };
    await fc.assert(
      fc.asyncProperty(editedPair(30_000), fc.constantFrom(512, 1024, 4096), ({ target }, blockBytes) =>
        check(target, blockBytes),
      ),
      { numRuns: 40 },
    );
    // More blocks than one run holds, with holes between.
    await check(Buffer.concat([noise(1, 4_500_000), Buffer.alloc(70_000), noise(2, 3001)]), 512);
  }));

test('the golden files are read, and made again', () =>
  withScratch(async (directory) => {
    const path = (name: string): string => join(directory, name);
    // As native/job/engine_jobs_test.cc makes them.
    const basis = Buffer.from(Uint8Array.from({ length: 20_000 }, (_, i) => Math.imul(i, 2_654_435_761) >>> 24));
    basis.fill(0, 5000, 9000);
    const kept = basis.subarray(512);
    const target = Buffer.concat([kept.subarray(0, 1000), Buffer.from('delta'), kept.subarray(1000)]);
    const whole = Buffer.concat([target, Buffer.alloc(3000), Buffer.alloc(1200, 'z')]);
    writeFileSync(path('basis'), basis);
    const signature = readFileSync('test/golden/signature_basic.dhsig');
    const { key, blockBytes } = await readSignature(inPieces(signature, 100));
    assert.equal(
      [...key],
      Array.from({ length: 32 }, (_, i) => i),
    );
    const written: Buffer[] = [];
    for await (const piece of writeSignature(inPieces(basis, 777), blockBytes, key, xxhashApi)) written.push(piece);
    assert.ok(Buffer.concat(written).equals(signature));
    for (const engine of engines) {
      await engine.patch(path('basis'), 'test/golden/delta_basic.dhdelta', path('result'));
      assert.ok(readFileSync(path('result')).equals(whole), engine.name);
    }
  }));

test('block lengths are chosen by the same rule', () =>
  withScratch(async (directory) => {
    const path = join(directory, 'basis');
    for (const bytes of [0, 1, 300_000, 262_144, 262_145, 1_048_575, 1_048_576, 1_052_672, 5_000_000]) {
      writeFileSync(path, noise(1, bytes));
      const { statistics } = await native.signature(path, join(directory, 'signature'));
      assert.is(chooseBlockBytes(bytes), statistics['blockBytes'], `${bytes} bytes`);
    }
  }));

test('both find what was kept, to about the same number of bytes', () =>
  withScratch(async (directory) => {
    const basis = noise(3, 400_000);
    const target = Buffer.concat([noise(9, 10), basis.subarray(0, 150_000), noise(8, 700), basis.subarray(151_000)]);
    writeFileSync(join(directory, 'basis'), basis);
    writeFileSync(join(directory, 'target'), target);
    await native.signature(join(directory, 'basis'), join(directory, 'signature'), { blockBytes: 512 });
    const [one, other] = await Promise.all(
      engines.map((engine) =>
        collect((output) => engine.delta(join(directory, 'signature'), join(directory, 'target'), output)),
      ),
    );
    assert.ok(one !== undefined && other !== undefined);
    assert.ok(one.length < 4000 && other.length < 4000, `${one.length} and ${other.length} bytes`);
  }));

test('both refuse the same damage, with the same code', () =>
  withScratch(async (directory) => {
    const path = (name: string): string => join(directory, name);
    writeFileSync(path('basis'), noise(4, 30_000));
    writeFileSync(path('target'), Buffer.concat([noise(5, 3000), Buffer.alloc(5000), noise(4, 30_000)]));
    await roundTrip(directory, [native, native, native], 512);
    const delta = readFileSync(path('delta'));
    const damages: Buffer[] = [];
    for (let at = 0; at < delta.length; at += Math.ceil(delta.length / 80)) {
      const damaged = Buffer.from(delta);
      damaged.writeUInt8(damaged.readUInt8(at) ^ 0x41, at);
      damages.push(damaged, delta.subarray(0, at));
    }
    damages.push(Buffer.concat([delta, Buffer.of(0)]));
    for (const damaged of damages) {
      const outcomes = await Promise.all(
        engines.map((engine, i) =>
          engine.patch(path('basis'), inPieces(damaged, 500), path(`result-${i}`)).catch((error: unknown) => error),
        ),
      );
      for (const outcome of outcomes)
        if (!isDeltahopError(outcome)) throw new Error(`taken: ${JSON.stringify(outcome)}`);
      const codes = outcomes.map((outcome) => (isDeltahopError(outcome) ? outcome.code : ''));
      assert.is(codes[0], codes[1], String(outcomes));
    }
  }));

test('it digests as the native engine does, and says what it cannot do', async () => {
  for (const length of [0, 1, 1024, 1025, 70_000]) {
    assert.is(portable.digest(noise(1, length)), native.digest(noise(1, length)));
  }
  const outcome = await portable.treeDigest('/').catch((error: unknown) => error);
  assert.ok(isDeltahopError(outcome, 'DELTAHOP_E_UNSUPPORTED'));
});

test('an abort ends it, and leaves nothing', () =>
  withScratch(async (directory) => {
    writeFileSync(join(directory, 'basis'), noise(1, 3_000_000));
    const abort = new AbortController();
    const options = { signal: abort.signal, onProgress: (): void => abort.abort(new Error('enough')) };
    const outcome = await portable
      .signature(join(directory, 'basis'), join(directory, 'signature'), options)
      .catch((error: unknown) => error);
    assert.ok(isDeltahopError(outcome, 'DELTAHOP_E_CANCELLED'), String(outcome));
  }));

test('it is chosen by DELTAHOP_ENGINE alone, and loudly', () => {
  const module = fileURLToPath(new URL('../../../src/engine/engine.js', import.meta.url));
  const nameWith = (value: string): string => {
    const script = `const { loadEngine } = await import(${JSON.stringify(module)}); console.log(loadEngine().name, loadEngine().name);`;
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      env: { ...process.env, DELTAHOP_ENGINE: value },
    });
    return stdout + stderr;
  };
  assert.is(nameWith('native'), 'native native\n');
  const said = nameWith('portable');
  assert.match(said, 'portable portable\n');
  assert.is(said.split('DELTAHOP_PORTABLE_ENGINE').length, 2, said);
  assert.match(nameWith('fast'), 'DELTAHOP_E_INVALID_ARGUMENT');
});

test.run();
