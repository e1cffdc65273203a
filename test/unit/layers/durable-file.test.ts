import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { z } from 'zod';
import { isDeltahopError } from '../../../src/errors.js';
import { readJson, writeJsonDurably } from '../../../src/layers/durable-file.js';
import { scratchDirectory } from './scratch.js';

const test = suite('layers/durable-file');
const scratch = scratchDirectory('durable');
const schema = z.strictObject({ count: z.int() });

test('what was written is read, and a file that is not there is null', async () => {
  const path = join(scratch, 'a.json');
  assert.is(await readJson(path, schema), null);
  await writeJsonDurably(path, { count: 1 });
  await writeJsonDurably(path, { count: 2 });
  assert.equal(await readJson(path, schema), { count: 2 });
  assert.equal(readdirSync(scratch), ['a.json'], 'no temporary file stays');
});

test('concurrent writes leave one of them, whole', async () => {
  const path = join(scratch, 'b.json');
  await Promise.all(Array.from({ length: 20 }, (_, count) => writeJsonDurably(path, { count })));
  const read = await readJson(path, schema);
  assert.ok(read !== null && read.count >= 0 && read.count < 20);
});

test('a file that is not what it should be is named, with the place', async () => {
  const path = join(scratch, 'c.json');
  for (const [content, message] of [
    ['{"count":', /c\.json is not JSON/],
    ['{"count":"x"}', /c\.json: count: /],
    ['{"count":1,"more":2}', /c\.json: .*more/],
  ] as const) {
    writeFileSync(path, content);
    try {
      await readJson(path, schema);
      assert.unreachable(content);
    } catch (error) {
      assert.ok(isDeltahopError(error, 'DELTAHOP_E_CORRUPT'), String(error));
      assert.match(error.message, message);
    }
  }
});

test('a write that fails says where and leaves nothing', async () => {
  try {
    await writeJsonDurably(join(scratch, 'missing/d.json'), {});
    assert.unreachable();
  } catch (error) {
    assert.ok(isDeltahopError(error, 'DELTAHOP_E_NOT_FOUND'), String(error));
    assert.match(error.message, /missing\/d\.json/);
  }
});

test.run();
