import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as z from 'zod';
import { isDeltahopError } from '../../../src/errors.js';
import { readJson, removeUnfinishedWrites, writeJsonDurably } from '../../../src/layers/durable-file.js';
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

test('what a killed writer left is removed, and the file stays', async () => {
  const directory = join(scratch, 'killed');
  mkdirSync(directory);
  const path = join(directory, 'e.json');
  await writeJsonDurably(path, { count: 1 });
  // Writes as fast as it can, until it is killed in one of them.
  const script = `
    import { writeJsonDurably } from ${JSON.stringify(new URL('../../../src/layers/durable-file.js', import.meta.url).href)};
    for (;;) await writeJsonDurably(${JSON.stringify(path)}, { count: 2 });`;
  while (readdirSync(directory).length === 1) {
    const before = statSync(path).ino;
    const writer = spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: 'ignore' });
    // On a busy machine it takes its time to come to its first write.
    while (statSync(path).ino === before) await new Promise((resolve) => setTimeout(resolve, 5));
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
    const ended = once(writer, 'exit');
    writer.kill('SIGKILL');
    await ended;
  }
  await removeUnfinishedWrites(directory);
  assert.equal(readdirSync(directory), ['e.json']);
  assert.equal(await readJson(path, schema), { count: 2 });
});

test.run();
