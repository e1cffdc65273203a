/** The benchmark's own arithmetic: medians, the choice of the peer, what a row says. Nothing here is timed. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { promising } from '../../../bench/plan.js';
import { bestOf, compare, lostIn, median, type Row, rowOf, type Trial } from '../../../bench/rows.js';

function trial(parts: Partial<Trial>): Trial {
  return {
    wallMs: 100,
    exitMs: 90,
    bytesOut: 1000,
    bytesIn: 10,
    cpuClientMs: 20,
    cpuServerMs: 30,
    peakRssBytes: 4096,
    peakRssOfEnd: { client: 2048, server: 2048 },
    ok: true,
    note: '',
    statistics: { sender: {}, receiver: {} },
    ...parts,
  };
}

function row(contender: Row['contender'], setting: string, parts: Partial<Trial>, link = 'unshaped'): Row {
  return rowOf({ cell: 'log', link, contender, setting }, [trial(parts)]);
}

test('the median is the middle value, or between the two in the middle', () => {
  assert.is(median([3, 1, 2]), 2);
  assert.is(median([10, 1, 2, 4]), 3);
  assert.is(median([7]), 7);
  assert.throws(() => median([]), RangeError);
});

test('a row has the figures that others read first, in their order', () => {
  const { spread, trials, ...rest } = rowOf({ cell: 'log', link: 'unshaped', contender: 'rsync', setting: '-z' }, [
    trial({ wallMs: 300, cpuClientMs: 1 }),
    trial({ wallMs: 100 }),
    trial({ wallMs: 200 }),
  ]);
  assert.equal(Object.keys({ ...rest }).slice(0, 9), [
    'cell',
    'link',
    'contender',
    'setting',
    'wallMs',
    'bytesOut',
    'bytesIn',
    'cpuMs',
    'peakRssBytes',
  ]);
  assert.is(rest.wallMs, 200);
  assert.is(rest.cpuMs, 50);
  assert.is(trials, 3);
  assert.equal(spread.wallMs, [100, 300]);
  assert.equal(spread.cpuMs, [31, 50]);
});

test('one failed trial fails the row, and its figures do not count', () => {
  const failed = rowOf({ cell: 'log', link: 'unshaped', contender: 'rsync', setting: '-z' }, [
    trial({ wallMs: 1, ok: false, note: 'the trees differ' }),
    trial({ wallMs: 200 }),
  ]);
  assert.is(failed.ok, false);
  assert.is(failed.note, 'the trees differ');
  assert.is(failed.wallMs, 200);
});

test('the peer is the best setting of each measure, and never one that failed', () => {
  const rows = [
    row('rsync', 'default', { wallMs: 10, bytesOut: 9000 }),
    row('rsync', '-z', { wallMs: 50, bytesOut: 500 }),
    row('rsync', '--inplace', { wallMs: 1, bytesOut: 1, ok: false, note: 'failed' }),
    row('deltahop', 'blind', { wallMs: 20, bytesOut: 240 }),
  ];
  assert.is(bestOf(rows.slice(0, 3), 'wallMs')?.setting, 'default');
  assert.is(bestOf(rows.slice(0, 3), 'bytes')?.setting, '-z');
  const [comparison] = compare(rows);
  assert.is(comparison?.peers.wallMs?.setting, 'default');
  assert.is(comparison?.peers.bytes?.setting, '-z');
  assert.is(comparison?.ratios.wallMs, 0.5);
  assert.is(comparison?.ratios.bytes, 510 / 250);
  assert.equal(comparison && lostIn(comparison), ['wallMs']);
});

test('a row of ours that failed is lost, whatever its figures', () => {
  const [comparison] = compare([
    row('rsync', 'default', {}),
    row('deltahop', 'blind', { wallMs: 1, ok: false, note: 'the trees differ' }),
  ]);
  assert.equal(comparison && lostIn(comparison), ['ok']);
  assert.is(comparison?.ratios.wallMs, undefined);
});

test('a setting is left out on a slow link only if another one is surely better there', () => {
  const survey = [
    row('rsync', '-z', { wallMs: 500, bytesOut: 1_000_000 }),
    row('rsync', '--inplace', { wallMs: 100, bytesOut: 2_000_000, cpuClientMs: 5 }),
    row('rsync', 'default', { wallMs: 100, bytesOut: 2_000_000, cpuClientMs: 60 }),
    row('rsync', '--whole-file', { wallMs: 150, bytesOut: 50_000_000, cpuClientMs: 0, cpuServerMs: 1 }),
  ];
  const slow = { name: 'slow', figures: { rateBps: 1e7, delayMs: 1, lossPercent: 0 } };
  // `--inplace` takes twice as long as `-z` there and uses the least CPU time; `--whole-file` would, but nobody waits 40 s.
  assert.equal([...promising(survey, slow).names].sort(), ['--inplace', '-z']);
  assert.equal(promising(survey, slow).without, ['default', '--whole-file']);
});

test.run();
