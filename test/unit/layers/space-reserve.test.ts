import { statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { DeltahopError } from '../../../src/errors.js';
import { SpaceReserve } from '../../../src/layers/space-reserve.js';
import { scratchDirectory } from './scratch.js';

const path = join(scratchDirectory('reserve'), 'reserve');
const held = (): boolean => (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) > 0;
const full = () => new DeltahopError('DELTAHOP_E_NO_SPACE', 'no space left on device');

test('the room is given back to a write that has none, and taken again afterwards', async () => {
  const reserve = await SpaceReserve.open(path);
  assert.ok(held());
  const tries: boolean[] = [];
  await reserve.write(async () => {
    tries.push(held());
    if (held()) throw full();
  });
  assert.equal(tries, [true, false]);
  for (const deadline = Date.now() + 5000; !held(); await sleep(5)) assert.ok(Date.now() < deadline, 'not taken again');
});

test('a write that fails with the room as well, or for another reason, fails', async () => {
  const reserve = await SpaceReserve.open(path);
  for (const [error, expected] of [
    [full(), 2],
    [new DeltahopError('DELTAHOP_E_IO', 'the disk is broken'), 1],
  ] as const) {
    let tries = 0;
    const failure = await reserve
      .write(async () => {
        tries++;
        throw error;
      })
      .catch((thrown: unknown) => thrown);
    assert.is(failure, error);
    assert.is(tries, expected);
    await reserve.write(async () => {});
    for (const deadline = Date.now() + 5000; !held(); await sleep(5)) assert.ok(Date.now() < deadline);
    await sleep(20);
  }
});

test.run();
