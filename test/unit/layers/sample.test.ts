import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { loadEngine } from '../../../src/engine/engine.js';
import { compressedShare, sampleOfTree } from '../../../src/layers/sample.js';
import { scratchDirectory } from './scratch.js';

const test = suite('layers/sample');
const scratch = scratchDirectory('sample');

test('a sample tells what can be compressed from what can not, wherever in the tree it is', async () => {
  const engine = loadEngine();
  mkdirSync(join(scratch, 'tree/deep'), { recursive: true });
  const mib = 1024 * 1024;
  writeFileSync(join(scratch, 'tree/deep/text'), 'the same words again and again\n'.repeat((3 * mib) / 31));
  assert.ok((await compressedShare(engine, await sampleOfTree(join(scratch, 'tree')))) < 0.05);
  writeFileSync(join(scratch, 'tree/random'), randomBytes(3 * mib));
  const share = await compressedShare(engine, await sampleOfTree(join(scratch, 'tree')));
  assert.ok(share > 0.4 && share < 0.6, `${share} of a tree that is random by half`);
});

test('of nothing, nothing is known', async () => {
  const sample = await sampleOfTree(join(scratch, 'nowhere'));
  assert.is(sample.length, 0);
  assert.is(await compressedShare(loadEngine(), sample), 1);
});

test.run();
