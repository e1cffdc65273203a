import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { judgeRounds, maxRounds, type RoundFigures } from '../../../src/migrate/rounds.js';

const round = (bytesSent: number, sendMs: number): RoundFigures => ({ bytesSent, sendMs });

test('there is always a first round', () => {
  assert.equal(judgeRounds([]), { go: true });
});

test('shrinking rounds go on until what is left is quickly sent', () => {
  assert.equal(judgeRounds([round(30e6, 5000)]), { go: true });
  assert.equal(judgeRounds([round(30e6, 5000), round(3e6, 600)]), { go: true });
  assert.equal(judgeRounds([round(30e6, 5000), round(3e6, 600), round(4e5, 100)]), { go: false, why: 'small-enough' });
});

test('a dirty set that does not shrink ends the rounds', () => {
  assert.equal(judgeRounds([round(30e6, 5000), round(25e6, 4000)]), { go: false, why: 'no-gain' });
});

test('rounds are bounded even if each gains', () => {
  const rounds = Array.from({ length: maxRounds }, (_, i) => round(1e9 / 2 ** i, 1e5 / 2 ** i));
  assert.equal(judgeRounds(rounds), { go: false, why: 'bound' });
});

test.run();
