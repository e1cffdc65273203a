import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isDeltahopError } from '../../../src/errors.js';
import { rewind } from '../../../src/workload/lxc/expired-timers.js';

const header = Buffer.from('1943565438313056', 'hex');
const timerfd = 17;

/** A varint field of a protobuf message. */
function varint(number: number, value: number): number[] {
  const encoded: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    encoded.push(rest < 128 ? rest : (rest % 128) | 0x80);
    if (rest < 128) return [number << 3, ...encoded];
  }
}

function message(number: number, bytes: number[]): number[] {
  return [(number << 3) | 2, bytes.length, ...bytes];
}

/** An entry of files.img as CRIU writes it for a timerfd: id, flags, owner, clock, ticks, and its four times. */
function timer(type: number, value: [number, number], interval: [number, number]): Buffer {
  const fields = [
    ...[...varint(1, 300), ...varint(2, 2), ...message(3, varint(1, 0)), ...varint(4, 1), ...varint(5, 1)],
    ...[...varint(6, 0), ...varint(7, value[0]), ...varint(8, value[1])],
    ...[...varint(9, interval[0]), ...varint(10, interval[1])],
  ];
  const entry = Buffer.from([...varint(1, type), ...varint(2, 300), ...message(12, fields)]);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(entry.length);
  return Buffer.concat([length, entry]);
}

function image(...entries: Buffer[]): Buffer {
  return Buffer.concat([header, ...entries]);
}

test('a periodic timer that has run out gets one nanosecond', () => {
  const before = image(timer(timerfd, [0, 0], [0, 20_000_000]), timer(timerfd, [0, 0], [3, 0]));
  assert.is(rewind(before), true);
  assert.equal(before, image(timer(timerfd, [0, 1], [0, 20_000_000]), timer(timerfd, [0, 1], [3, 0])));
});

test('every other timer stays as it is', () => {
  const others = image(
    timer(timerfd, [0, 11_571_502], [0, 20_000_000]),
    timer(timerfd, [5, 0], [5, 0]),
    timer(timerfd, [0, 0], [0, 0]),
    timer(timerfd - 1, [0, 0], [0, 20_000_000]),
  );
  const copy = Buffer.from(others);
  assert.is(rewind(others), false);
  assert.equal(others, copy);
});

test('what is no files.img, or is cut short at any byte, is refused or left alone', () => {
  const whole = image(timer(timerfd, [0, 0], [0, 20_000_000]));
  for (let length = 0; length < whole.length; length++) {
    try {
      assert.is(rewind(Buffer.from(whole.subarray(0, length))), false);
      assert.is(length, header.length, 'an image of no file is one');
    } catch (error) {
      if (!isDeltahopError(error, 'DELTAHOP_E_CHECKPOINT')) throw error;
    }
  }
  const wrong = Buffer.from(whole);
  wrong[0] = 0;
  assert.throws(() => rewind(wrong), /format of CRIU 4/);
});

test.run();
