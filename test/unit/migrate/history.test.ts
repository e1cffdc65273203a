import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { PastHop } from '../../../src/migrate/forecast.js';
import { History } from '../../../src/migrate/history.js';
import { scratchDirectory } from '../layers/scratch.js';

const test = suite('migrate/history');
const scratch = scratchDirectory('history');

const hop: PastHop = {
  service: 'web',
  to: 'edge-b',
  returning: true,
  memoryBytes: 1,
  layerBytesSent: 2,
  instanceBytesSent: 3,
  finalBytesSent: 4,
  totalMs: 5,
  downtimeMs: 6,
  downtime: [
    { stage: 'dump', ms: 5, driverMs: 4 },
    { stage: 'transfer', ms: 1 },
  ],
};

test('what hops have cost is still known after a restart, the newest last, and not for ever', async () => {
  const path = join(scratch, 'kept.json');
  const history = await History.open(path);
  assert.equal([history.hops, history.rate('b:1')], [[], null]);
  for (let index = 0; index < 120; index++) await history.addHop({ ...hop, totalMs: index });
  await history.setRate('b:1', 6000);
  const again = await History.open(path);
  assert.is(again.hops.length, 100);
  assert.equal(again.hops.at(-1), { ...hop, totalMs: 119 });
  assert.is(again.rate('b:1'), 6000);
});

test('a damaged or unwritable memory is no memory, and stands in nobody’s way', async () => {
  const path = join(scratch, 'damaged.json');
  writeFileSync(path, '{"format":1,"hops":[{"service":7}]}');
  assert.equal((await History.open(path)).hops, []);
  const nowhere = await History.open(join(scratch, 'no/such/directory/history.json'));
  await nowhere.addHop(hop);
  assert.is(nowhere.hops.length, 1);
});

test.run();
