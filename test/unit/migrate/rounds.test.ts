import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { judgeRounds, maxPausedMs, maxRounds, outlook, type RoundFigures } from '../../../src/migrate/rounds.js';

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

test('figures of nothing make no nonsense', () => {
  const nothing: RoundFigures = { bytesSent: 0, sendMs: 0, pausedMs: 0 };
  for (const rounds of [[nothing], [nothing, nothing], [nothing, nothing, nothing]]) {
    assert.equal(judgeRounds(rounds), { go: false, why: 'no-gain' });
    const { bytes = 0, ms = 0 } = outlook(rounds) ?? {};
    assert.ok(Number.isFinite(bytes) && Number.isFinite(ms));
  }
});

test.run();
