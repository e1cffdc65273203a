import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  judgeRounds,
  maxPausedMs,
  maxRounds,
  nextShare,
  outlook,
  type RoundFigures,
} from '../../../src/migrate/rounds.js';

/** At 6 bytes a microsecond, as a link of 50 Mbit/s has it, and 40 ms of round trips. */
const round = (bytesSent: number, pausedMs = 200): RoundFigures => ({
  bytesSent,
  sendMs: 40 + bytesSent / 6000,
  pausedMs,
});

test('there is always a first round, and what it says of the next is only how long everything took', () => {
  assert.equal(judgeRounds([]), { go: true });
  assert.is(outlook([round(30e6)]), null);
  assert.equal(judgeRounds([round(30e6)]), { go: true });
  // Sent in less time than the service would stand still for another dump.
  assert.equal(judgeRounds([round(6e5)]), { go: false, why: 'no-gain' });
});

test('a round has to save more downtime than its dump costs', () => {
  // What is changed in 5 s takes 3 s to send, what is changed in these 3 s less.
  const expensive = [round(30e6), round(18e6)];
  assert.equal(judgeRounds(expensive), { go: true });
  assert.equal(judgeRounds(expensive.map((each) => ({ ...each, pausedMs: 1500 }))), { go: false, why: 'no-gain' });
  assert.equal(judgeRounds([round(30e6), round(3e5)]), { go: false, why: 'no-gain' });
});

test('a service that changes the same again and again gains nothing from further rounds', () => {
  const rounds = [round(60e6), round(6e6), round(6e6)];
  assert.is(outlook(rounds)?.bytes, 6e6);
  assert.equal(judgeRounds(rounds), { go: false, why: 'no-gain' });
});

test('one that always changes something new is left with what the last interval brought', () => {
  const interval = (bytes: number): number => round(bytes).sendMs + 200;
  const second = 12e6;
  const third = (second * interval(second)) / interval(60e6);
  const expected = (third * interval(third)) / interval(second);
  const found = outlook([round(60e6), round(second), round(third)])?.bytes ?? 0;
  assert.ok(Math.abs(found - expected) < 1, `${found} bytes, ${expected} expected`);
});

test('the outlook never exceeds what the last round brought', () => {
  const rising = [round(10e6), round(1e6), round(9e6)];
  assert.is(outlook(rising)?.bytes, 9e6);
});

test('rounds are bounded, in number and in the time that the service stands still for them', () => {
  const gaining = Array.from({ length: maxRounds }, (_, i) => round(1e9 / 2 ** i));
  assert.equal(judgeRounds(gaining.slice(0, 4)), { go: true });
  assert.equal(judgeRounds(gaining), { go: false, why: 'bound' });
  assert.equal(judgeRounds(gaining.slice(0, 2).map((each) => ({ ...each, pausedMs: maxPausedMs / 2 }))), {
    go: false,
    why: 'bound',
  });
});

test('a service that changes more than the link carries is slowed down, step by step, to a 64th', () => {
  // All of 60 MB again in each round, which take ten seconds.
  const endless = [round(60e6), round(60e6)];
  assert.equal(judgeRounds(endless), { go: false, why: 'no-gain' });
  assert.is(nextShare(endless, 1), 1 / 4);
  assert.is(nextShare(endless, 1 / 4), 1 / 16);
  assert.is(nextShare(endless, 1 / 16), 1 / 64);
  assert.is(nextShare(endless, 1 / 64), null);
});

test('it is not slowed down for a final delta that is sent in no time, nor by what a first round brought', () => {
  assert.is(nextShare([round(60e6), round(1.2e6), round(1.2e6)], 1), null);
  assert.is(nextShare([round(60e6)], 1), null);
  assert.is(nextShare([], 1), null);
});

test('the rounds of a slowed service go on until they are short, and it is not slowed further', () => {
  // It changes a quarter of what the link carries: 10 s, 2.5 s, 0.6 s, 0.15 s.
  const rounds: RoundFigures[] = [];
  let verdict = judgeRounds(rounds);
  for (let bytes = 60e6; verdict.go; bytes /= 4) {
    rounds.push(round(bytes, 0));
    verdict = judgeRounds(rounds);
  }
  assert.ok(rounds.length > 4, `${rounds.length} rounds`);
  assert.is(nextShare(rounds, 1 / 16), null);
});

test('figures of nothing make no nonsense', () => {
  const nothing: RoundFigures = { bytesSent: 0, sendMs: 0, pausedMs: 0 };
  for (const rounds of [[nothing], [nothing, nothing], [nothing, nothing, nothing]]) {
    assert.equal(judgeRounds(rounds), { go: false, why: 'no-gain' });
    const { bytes = 0, ms = 0 } = outlook(rounds) ?? {};
    assert.ok(Number.isFinite(bytes) && Number.isFinite(ms));
  }
});

test.run();
