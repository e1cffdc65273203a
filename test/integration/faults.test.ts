/** The short version of `npm run faults`: twenty faults, each injected into a real migration of a real container. */
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { testUnless } from '../support/obstacle.js';
import { run } from '../testbed/command.js';
import { benchUnavailable } from './support/probe-bench.js';

const check = testUnless(test, benchUnavailable());

const program = fileURLToPath(new URL('../faults/faults.js', import.meta.url));
const leastInjected = 20;
/** Four minutes are usual; a machine that is busy with other things takes longer. */
const limitMs = 13 * 60_000;

check('after each of twenty faults one copy runs, and nothing is lost, doubled or left over', async () => {
  const argv = [process.execPath, '--enable-source-maps', program, '--quick', '--json'];
  const { code, stdout, stderr } = await run(argv, { check: false, timeoutMs: limitMs });
  const lines = stdout.trim().split('\n');
  const { type, injected, recovered, ...wrong } = JSON.parse(lines.at(-1) ?? '{}');
  const told = `${stdout}${stderr}`;
  assert.is(type, 'summary', told);
  assert.equal(wrong, { lostServices: 0, doubleRuns: 0, lostWrites: 0, leftovers: 0, needsOperator: 0 }, told);
  assert.ok(injected >= leastInjected, `${injected} were injected\n${told}`);
  assert.is(recovered, injected, told);
  assert.is(code, 0, told);
});

test.run();
