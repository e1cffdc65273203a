/** The model of the hand-off (test/model/handoff.pml), checked exhaustively, and its mistakes, each of which must be found. */
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { testUnless } from '../../support/obstacle.js';
import { scratchDirectory } from '../layers/scratch.js';

/** dist/test/unit/migrate is four below the project. */
const model = fileURLToPath(new URL('../../../../test/model/handoff.pml', import.meta.url));
const scratch = scratchDirectory('model');
const limitMs = 55_000;

const lacking = ['spin', 'cc'].filter((program) => spawnSync(program, ['--version']).error !== undefined);
const obstacle = lacking.length === 0 ? null : `the model checker needs ${lacking.join(' and ')}: apt install spin gcc`;
const check = testUnless(test, obstacle);

/** Runs a program to its end, which must be a good one. */
function mustRun(cwd: string, program: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd, encoding: 'utf8', timeout: limitMs });
  assert.is(status, 0, `${program} ${args.join(' ')}: ${error?.message ?? ''} ${stderr} ${stdout}`);
  return stdout;
}

const checkers = new Map<string, string>();

/** Directory of the checker of the model with these macros; made once. */
function checkerOf(defines: readonly string[]): string {
  const key = ['checker', ...defines].join(' ');
  const made = checkers.get(key);
  if (made !== undefined) return made;
  const directory = join(scratch, key);
  mkdirSync(directory);
  mustRun(directory, 'spin', [...defines.map((name) => `-D${name}`), '-a', model]);
  // Unoptimized: compiling takes longer than checking.
  mustRun(directory, 'cc', ['-O0', '-DNFAIR=4', '-o', 'pan', 'pan.c']);
  checkers.set(key, directory);
  return directory;
}

/** What an exhaustive search under weak fairness finds for one property. */
function search(property: string, defines: readonly string[]): { errors: number; states: number; said: string } {
  const said = mustRun(checkerOf(defines), './pan', ['-a', '-f', '-m100000', '-w20', '-N', property]);
  const errors = Number(/errors: (\d+)/.exec(said)?.[1] ?? Number.NaN);
  const states = Number(/(\d+) states, stored/.exec(said)?.[1] ?? Number.NaN);
  // A checker that ran out of depth has not looked at everything.
  if (errors === 0) assert.not.match(said, /max search depth too small|Search not completed/, said);
  return { errors, states, said };
}

for (const property of ['oneCopy', 'someCopy']) {
  for (const defines of [['MAX_FAULTS=4'], ['MAX_FAULTS=4', 'GONE']]) {
    check(`${property} holds with ${defines.join(', ')}`, () => {
      const { errors, states, said } = search(property, defines);
      assert.is(errors, 0, said);
      assert.ok(states > 5_000, `only ${states} states were looked at`);
    });
  }
}

for (const property of ['yields', 'someCopy']) {
  check(`${property} holds with an operator who may be wrong`, () => {
    const { errors, states, said } = search(property, ['MAX_FAULTS=2', 'RESOLVE']);
    assert.is(errors, 0, said);
    assert.ok(states > 5_000, `only ${states} states were looked at`);
  });
}

check('oneCopy holds with a source that may lose its power', () => {
  const { errors, states, said } = search('oneCopy', ['MAX_FAULTS=3', 'BOOT']);
  assert.is(errors, 0, said);
  assert.ok(states > 5_000, `only ${states} states were looked at`);
});

for (const [property, mistake, ...defines] of [
  ['oneCopy', 'FORGET', 'MAX_FAULTS=3', 'BOOT'],
  ['someCopy', 'DISCARD', 'MAX_FAULTS=3', 'GONE'],
  ['someCopy', 'TURN', 'MAX_FAULTS=2', 'RESOLVE'],
  ['someCopy', 'GRUDGE', 'MAX_FAULTS=2', 'RESOLVE'],
] as const) {
  check(`BROKEN_${mistake} is found`, () => {
    const { errors, said } = search(property, [...defines, `BROKEN_${mistake}`]);
    assert.is(errors, 1, said);
  });
}

for (const mistake of ['EPOCH', 'UNTOLD']) {
  check(`BROKEN_${mistake} is found`, () => {
    const { errors, said } = search('yields', ['MAX_FAULTS=2', 'RESOLVE', `BROKEN_${mistake}`]);
    assert.is(errors, 1, said);
  });
}

for (const [property, mistake] of [
  ['oneCopy', 'PROMOTE'],
  ['oneCopy', 'RESUME'],
  ['oneCopy', 'VERDICT'],
  ['oneCopy', 'UNFENCED'],
  ['oneCopy', 'REFUSAL'],
  ['oneCopy', 'RERUN'],
  ['someCopy', 'SILENT'],
] as const) {
  check(`BROKEN_${mistake} is found`, () => {
    const { errors, said } = search(property, [`BROKEN_${mistake}`]);
    assert.is(errors, 1, said);
  });
}

test.run();
