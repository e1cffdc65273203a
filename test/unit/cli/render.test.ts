import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { errorText, eventLine, eventView, jsonLine, type Output, printable, table } from '../../../src/cli/render.js';

const test = suite('cli/render');

function capture(isTTY = false): Output & { text: string } {
  return {
    text: '',
    isTTY,
    write(chunk: string) {
      this.text += chunk;
      return true;
    },
  };
}

/** Everything that a terminal would act upon instead of showing it. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: finding them is the purpose
const dangerous = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200b-\u200f\ufeff]/;

test('control characters are shown, not sent', () => {
  assert.is(printable('a\u001b[31mb\u0007\r\n\u009b1m\u007f'), 'a\\x1b[31mb\\x07\\x0d\\x0a\\x9b1m\\x7f');
  assert.is(printable('evil\u202etxt.exe\u2066'), 'evil\\u202etxt.exe\\u2066');
  assert.is(printable('plain text, ünïcode ☃ 漢字 🚚'), 'plain text, ünïcode ☃ 漢字 🚚');
});

test('whatever comes in, nothing dangerous goes out', () => {
  const text = fc.string({ unit: 'binary' });
  fc.assert(
    fc.property(text, text, (a, b) => {
      assert.not.match(printable(a), dangerous);
      assert.not.match(jsonLine({ a, [b]: b }), dangerous);
      assert.equal(JSON.parse(jsonLine({ a, list: [b] })), { a, list: [b] });
      assert.not.match(errorText({ code: a, message: b, remedy: a }), dangerous);
      assert.not.match(table([a, b], [[b, a]]), dangerous);
      assert.is(table([a, b], [[b, a]]).split('\n').length, 3);
      const warning = eventLine({ type: 'warning', message: a }) ?? '';
      assert.not.match(warning, dangerous);
      assert.not.match(warning, /\n/);
    }),
  );
});

test('an error is a message, a remedy and a code', () => {
  assert.is(
    errorText({ code: 'DELTAHOP_E_BUSY', message: 'web is being moved', remedy: 'wait' }),
    'deltahop: web is being moved\n  → wait  [DELTAHOP_E_BUSY]\n',
  );
});

test('columns are aligned', () => {
  assert.is(
    table(
      ['NAME', 'N'],
      [
        ['long-name', '1'],
        ['ü', '22'],
      ],
    ),
    'NAME       N\nlong-name  1\nü          22\n',
  );
});

test('events have their lines', () => {
  const phase = { type: 'phase', name: 'base', ms: 61_500, bytesSent: 1_500_000, bytesReceived: 10 };
  assert.is(eventLine({ ...phase, state: 'start' }), null);
  assert.match(eventLine({ ...phase, state: 'end' }) ?? '', /^base +1m 1\.5s {2}sent 1\.5 MB, received 10 B$/);
  const summary = {
    type: 'summary',
    service: 'web',
    from: 'a',
    to: 'b',
    totalMs: 9000,
    bytesSent: 5,
    bytesReceived: 6,
  };
  assert.is(
    eventLine({ ...summary, result: 'moved', downtimeMs: 812 }),
    'web moved from a to b in 9s, down for 812 ms; sent 5 B, received 6 B',
  );
  const range = { low: 900, expected: 1000, high: 1500 };
  const told = {
    downtime: [
      { stage: 'dump', ms: 300, driverMs: 280 },
      { stage: 'transfer', ms: 90 },
    ],
    forecast: { bytesSent: range, came: { bytesSent: 'within', totalMs: 'above', downtimeMs: 'below' } },
  };
  assert.is(
    eventLine({ ...summary, ...told, result: 'moved', downtimeMs: 812 }),
    'web moved from a to b in 9s, down for 812 ms; sent 5 B, received 6 B\n' +
      '  down: dump 300 ms (CRIU 280 ms), transfer 90 ms\n' +
      '  not as expected: time above, downtime below its bounds',
  );
  assert.is(
    eventLine({ type: 'forecast', bytesSent: range, totalMs: null, downtimeMs: range }),
    'expected: sends 1 kB (900 B to 1.5 kB), down for 1s (900 ms to 1.5s)',
  );
  assert.is(eventLine({ ...summary, result: 'failed', downtimeMs: null }), null);
  assert.is(eventLine({ type: 'layer', digest: 'blake3:00' }), 'blake3:00');
  assert.is(eventLine({ type: 'something-new' }), null);
});

test('events with fields of the wrong kind do not break the view', () => {
  for (const type of ['phase', 'progress', 'round', 'forecast', 'warning', 'layer', 'summary', 'error', 'job']) {
    const view = eventView(false, capture(), capture(true));
    view.show({ type, state: 'end', name: 7, ms: 'x', result: 'moved', doneBytes: null, totalBytes: Number.NaN });
    view.close();
  }
});

test('with JSON every event is a line, except the one that names the job', () => {
  const out = capture();
  const view = eventView(true, out, capture());
  for (const type of ['job', 'phase', 'progress', 'summary']) view.show({ type });
  view.close();
  assert.is(out.text, '{"type":"phase"}\n{"type":"progress"}\n{"type":"summary"}\n');
});

test('without a terminal no bar is drawn; results are on standard output alone', () => {
  const out = capture();
  const err = capture();
  const view = eventView(false, out, err);
  view.show({ type: 'progress', phase: 'base', what: 'x', doneBytes: 1, totalBytes: 2 });
  view.show({ type: 'layer', digest: 'blake3:00' });
  view.close();
  assert.is(out.text, 'blake3:00\n');
  assert.is(err.text, '');
});

test.run();
