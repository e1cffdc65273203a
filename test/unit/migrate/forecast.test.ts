import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  downtimeAfterRound,
  type ForecastInputs,
  forecast,
  judge,
  type PastHop,
  type Range,
} from '../../../src/migrate/forecast.js';

const mib = 1024 * 1024;
const first: ForecastInputs = {
  service: 'web',
  to: 'edge-b',
  layers: { bytes: 100 * mib, files: 5000, share: 0.4 },
  instance: { memoryBytes: 32 * mib, filesBytes: 0, share: 0.5 },
  returning: false,
  hasDisks: false,
  link: { roundTripMs: 20, bytesPerMs: 6000 },
  past: [],
};

function hop(instanceBytesSent: number, downtimeMs: number, more: Partial<PastHop> = {}): PastHop {
  return {
    service: 'web',
    to: 'edge-b',
    returning: true,
    memoryBytes: 32 * mib,
    layerBytesSent: 0,
    instanceBytesSent,
    finalBytesSent: 1000,
    totalMs: 3000,
    downtimeMs,
    downtime: [
      { stage: 'dump', ms: downtimeMs / 2, driverMs: downtimeMs / 3 },
      { stage: 'restore', ms: downtimeMs / 2 },
    ],
    ...more,
  };
}

function assertOrdered(range: Range): void {
  assert.ok(range.low <= range.expected && range.expected <= range.high, JSON.stringify(range));
  assert.ok(Number.isFinite(range.high) && range.low >= 0, JSON.stringify(range));
}

test('a first hop brings the missing layers and the memory, compressed, and its time follows from the rate', () => {
  const { bytesSent, totalMs, downtimeMs } = forecast(first);
  for (const range of [bytesSent, totalMs, downtimeMs]) assertOrdered(range ?? { low: 1, expected: 0, high: 0 });
  const least = 100 * mib * 0.4 + 16 * mib;
  assert.ok(bytesSent.expected > least && bytesSent.expected < 1.1 * least, String(bytesSent.expected));
  const slower = forecast({ ...first, link: { ...first.link, bytesPerMs: 600 } });
  assert.ok((slower.totalMs?.expected ?? 0) > 5 * (totalMs?.expected ?? 0));
});

test('of a machine’s memory less may come the first time, and is expected to', () => {
  const [container, machine] = [forecast(first).bytesSent, forecast({ ...first, hasDisks: true }).bytesSent];
  assertOrdered(machine);
  assert.ok(machine.low < container.low - 7 * mib && machine.expected < container.expected - 5 * mib);
  assert.is(machine.high, container.high, 'or all of it');
});

test('without a rate the time is not guessed, the downtime still is, and with wide bounds', () => {
  const { totalMs, downtimeMs } = forecast({ ...first, link: { roundTripMs: 20, bytesPerMs: null } });
  assert.is(totalMs, null);
  assertOrdered(downtimeMs);
  assert.ok(downtimeMs.high > 3 * downtimeMs.low);
});

test('a hop like earlier ones is foretold from them, more narrowly', () => {
  const everything = hop(20 * mib, 420, { layerBytesSent: 40 * mib, returning: false });
  const past = [everything, hop(200_000, 400), hop(220_000, 380)];
  const layers = { bytes: 0, files: 0, share: 1 };
  const { bytesSent, downtimeMs } = forecast({ ...first, layers, returning: true, past });
  assert.ok(bytesSent.low >= 100_000 && bytesSent.high <= 350_000, JSON.stringify(bytesSent));
  assert.is(downtimeMs.expected, 400);
  assert.ok(downtimeMs.low > 250 && downtimeMs.high < 600, JSON.stringify(downtimeMs));
  const unknown = forecast({ ...first, layers, returning: true });
  assert.ok(unknown.bytesSent.high > 50 * unknown.bytesSent.low, 'nobody has seen it going there');
  const returned = forecast({ ...first, layers, returning: true, past: [everything] });
  assert.equal(returned.bytesSent, unknown.bytesSent, 'what the first one brought says nothing of the second');
  const once = forecast({ ...first, layers, returning: true, past: past.slice(0, 2) }).bytesSent;
  assert.ok(once.low < bytesSent.low && once.high > bytesSent.high, 'one says less than two');
});

test('other services’ hops say how fast this machine is', () => {
  const slow = hop(1, 2000, { service: 'other', to: 'edge-c' });
  const plain = forecast(first).downtimeMs;
  const slowed = forecast({ ...first, past: [slow] }).downtimeMs;
  assert.ok(slowed.expected > 2 * plain.expected);
  assert.ok(slowed.high / slowed.low < plain.high / plain.low, 'and leave less in doubt');
});

test('a round’s dump is what the last one will take; a longer one means a longer downtime', () => {
  const quick = downtimeAfterRound(first, 150, 10);
  assert.ok(quick > 150 + 10 && quick < 1000, String(quick));
  assert.ok(downtimeAfterRound(first, 600, 10) > quick + 450);
  assert.ok(downtimeAfterRound(first, 150, 500) === quick + 490);
});

test('what came is compared with what was said', () => {
  const range = { low: 10, expected: 15, high: 20 };
  const made = { bytesSent: range, totalMs: range, downtimeMs: range };
  const { came } = judge(made, { bytesSent: 9, totalMs: 20, downtimeMs: 21 });
  assert.equal(came, { bytesSent: 'below', totalMs: 'within', downtimeMs: 'above' });
  assert.is(judge({ ...made, totalMs: null }, { bytesSent: 1, totalMs: 1, downtimeMs: 1 }).came.totalMs, null);
});

test.run();
