import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isDeltahopError } from '../../../src/errors.js';
import {
  type FrameEvent,
  FrameReader,
  frameHeader,
  maxControlPayloadBytes,
  maxDataPayloadBytes,
} from '../../../src/wire/frames.js';

function frame(name: 'data' | 'hello' | 'ping', payload: Uint8Array): Buffer {
  return Buffer.concat([frameHeader(name, payload.length), payload]);
}

/** All events of a stream cut into pieces of the given sizes, with data pieces joined per name run. */
function readAll(bytes: Uint8Array, sizes: readonly number[]): { name: string; payload: Buffer }[] {
  const reader = new FrameReader();
  const events: FrameEvent[] = [];
  let at = 0;
  for (let turn = 0; at < bytes.length; turn += 1) {
    const size = sizes[turn % sizes.length] ?? 1;
    // The reader must not hold views of a caller's buffer across calls: this one is overwritten after each.
    const chunk = Buffer.from(bytes.subarray(at, at + size));
    for (const event of reader.read(chunk)) events.push({ name: event.name, payload: Buffer.from(event.payload) });
    chunk.fill(0xee);
    at += size;
  }
  assert.not(reader.midFrame);
  const joined: { name: string; payload: Buffer }[] = [];
  for (const { name, payload } of events) {
    const last = joined.at(-1);
    if (name === 'data' && last?.name === 'data') last.payload = Buffer.concat([last.payload, payload]);
    else joined.push({ name, payload: Buffer.from(payload) });
  }
  return joined;
}

test('frames survive any split', () => {
  const payloads = fc.array(
    fc.record({
      name: fc.constantFrom('data' as const, 'hello' as const, 'ping' as const),
      payload: fc.uint8Array({ minLength: 1, maxLength: 3000 }),
    }),
    { minLength: 1, maxLength: 12 },
  );
  fc.assert(
    fc.property(
      payloads,
      fc.array(fc.integer({ min: 1, max: 997 }), { minLength: 1, maxLength: 5 }),
      (frames, sizes) => {
        const bytes = Buffer.concat(frames.map(({ name, payload }) => frame(name, payload)));
        const whole = readAll(bytes, [bytes.length]);
        for (const split of [sizes, [1], [2], [3], [5], [7]]) assert.equal(readAll(bytes, split), whole);
        const controls = frames.filter(({ name }) => name !== 'data');
        assert.equal(
          whole.filter(({ name }) => name !== 'data').map(({ payload }) => [...payload]),
          controls.map(({ payload }) => [...payload]),
        );
        assert.is(
          Buffer.concat(whole.filter(({ name }) => name === 'data').map(({ payload }) => payload)).toString('hex'),
          Buffer.concat(frames.filter(({ name }) => name === 'data').map(({ payload }) => payload)).toString('hex'),
        );
      },
    ),
    { numRuns: 100 },
  );
});

test('lengths and types out of bounds are refused as soon as the header is there', () => {
  const cases: [number, number, string][] = [
    [maxControlPayloadBytes + 1, 1, 'DELTAHOP_E_LIMIT'],
    [maxDataPayloadBytes + 1, 15, 'DELTAHOP_E_LIMIT'],
    [0xffffffff, 15, 'DELTAHOP_E_LIMIT'],
    [0, 1, 'DELTAHOP_E_LIMIT'],
    [0, 15, 'DELTAHOP_E_LIMIT'],
    [1, 0, 'DELTAHOP_E_PROTOCOL'],
    [1, 14, 'DELTAHOP_E_PROTOCOL'],
    [1, 16, 'DELTAHOP_E_PROTOCOL'],
    [1, 255, 'DELTAHOP_E_PROTOCOL'],
  ];
  for (const [length, type, code] of cases) {
    const header = Buffer.alloc(5);
    header.writeUInt32LE(length, 0);
    header.writeUInt8(type, 4);
    try {
      for (const event of new FrameReader().read(header)) assert.unreachable(event.name);
      assert.unreachable(`${length} of type ${type}`);
    } catch (error) {
      assert.ok(isDeltahopError(error), String(error));
      assert.is(error.code, code);
    }
  }
});

test('the largest frames pass', () => {
  for (const [name, bytes] of [
    ['hello', maxControlPayloadBytes],
    ['data', maxDataPayloadBytes],
  ] as const) {
    const payload = Buffer.alloc(bytes, 7);
    const [event] = readAll(frame(name, payload), [4093]);
    assert.is(event?.payload.compare(payload), 0);
  }
  assert.throws(
    () => frameHeader('hello', maxControlPayloadBytes + 1),
    (error: unknown) => isDeltahopError(error, 'DELTAHOP_E_LIMIT'),
  );
});

test('a control frame that never comes costs no memory ahead', () => {
  const before = process.memoryUsage().arrayBuffers;
  const readers: FrameReader[] = [];
  for (let index = 0; index < 1000; index += 1) {
    const reader = new FrameReader();
    for (const event of reader.read(Buffer.concat([frameHeader('hello', maxControlPayloadBytes), Buffer.from('{')]))) {
      assert.unreachable(event.name);
    }
    readers.push(reader);
  }
  const grownBytes = process.memoryUsage().arrayBuffers - before;
  assert.ok(readers.every((reader) => reader.midFrame));
  assert.ok(grownBytes < 1000 * 16 * 1024, `${grownBytes} bytes for 1000 announced frames`);
});

test.run();
