import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { DeltahopError, type ErrorCode, errorCatalogue, isDeltahopError } from '../../../src/errors.js';
import { FrameReader, frameTypes } from '../../../src/wire/frames.js';
import {
  decodeMessage,
  encodeMessage,
  fromWireError,
  isControl,
  type Message,
  negotiateVersion,
  ownVersions,
  preamble,
  printable,
  toWireError,
} from '../../../src/wire/messages.js';

function repositoryFile(...parts: string[]): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json'))) directory = dirname(directory);
  return join(directory, ...parts);
}

const identity = {
  software: 'deltahop/0.1',
  engine: 'native',
  formats: ['tree/1'],
  limits: { maxDataFrameBytes: 1048576 },
};

/** One of each, as test/golden/wire-messages.txt has them byte for byte. */
const samples: Message[] = [
  { type: 'hello', protocol: 1, minProtocol: 1, ...identity, secret: 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' },
  { type: 'helloReply', protocol: 1, ...identity },
  { type: 'refused', code: 'denied', message: 'the ticket is unknown or has expired' },
  { type: 'begin', slot: 'instance-upper', direction: 'send', durable: false },
  { type: 'ready' },
  { type: 'done', error: null },
  { type: 'done', error: { code: 'no_space', message: 'no space left on /srv' } },
  { type: 'bye' },
  { type: 'ping', id: 7, progress: 123456789 },
  { type: 'pong', id: 7 },
  {
    type: 'open',
    protocol: 1,
    minProtocol: 1,
    ...identity,
    module: 'srv',
    path: 'www/',
    direction: 'send',
    source: { kind: 'directory', name: 'www' },
    options: {
      deleteOthers: true,
      maxDeletes: 1000,
      inPlace: true,
      dryRun: false,
      itemize: true,
      verify: false,
      bytesPerSecond: 512000,
      silenceMs: 60000,
      remember: '0123456789abcdef'.repeat(4),
    },
  },
  { type: 'opened', protocol: 1, ...identity, kind: null },
  { type: 'changes', text: '>f.st...... index.html\n' },
  { type: 'report', statistics: { filesTotal: 1 }, notes: ['a: socket left out'] },
];

function only(bytes: Uint8Array): Message {
  const events = [...new FrameReader().read(bytes)];
  assert.is(events.length, 1);
  const [event] = events;
  if (event === undefined || !isControl(event.name)) throw new Error('no control frame');
  return decodeMessage(event.name, event.payload);
}

test('messages have the golden bytes, both ways', () => {
  const golden = readFileSync(repositoryFile('test', 'golden', 'wire-messages.txt'), 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  assert.equal(golden[0], `preamble ${preamble.toString('hex')}`);
  assert.is(golden.length, samples.length + 1);
  samples.forEach((sample, index) => {
    const [name, hex] = golden[index + 1]?.split(' ') ?? [];
    assert.is(name, sample.type);
    assert.is(encodeMessage(sample).toString('hex'), hex, `bytes of ${sample.type}`);
    assert.equal(only(Buffer.from(hex ?? '', 'hex')), sample);
  });
});

test('the specification names every frame type with its number', () => {
  const text = readFileSync(repositoryFile('src', 'wire', 'PROTOCOL.md'), 'utf8');
  for (const [name, type] of Object.entries(frameTypes)) {
    assert.match(text, new RegExp(`\\| ${type} +\\| \`${name}\` `), `${name} = ${type}`);
  }
  assert.match(text, `speaks version ${ownVersions.protocol}`);
});

test('fields that we do not know are dropped, fields that we need are demanded', () => {
  for (const sample of samples) {
    const { type, ...fields } = sample;
    const more = Buffer.from(JSON.stringify({ ...fields, novelty: { deep: [1] }, __proto__: null }));
    assert.equal(decodeMessage(type, more), sample);
    for (const field of Object.keys(fields)) {
      const less = Object.fromEntries(Object.entries(fields).filter(([key]) => key !== field));
      assert.throws(
        () => decodeMessage(type, Buffer.from(JSON.stringify(less))),
        (error: unknown) => isDeltahopError(error, 'DELTAHOP_E_PROTOCOL') && error.message.includes(field),
      );
    }
  }
});

test('values out of bounds are refused', () => {
  const hello = { ...samples[0] };
  const wrong: [Message['type'], object][] = [
    ['hello', { ...hello, minProtocol: 2 }],
    ['hello', { ...hello, protocol: 0 }],
    ['hello', { ...hello, protocol: 1.5 }],
    ['hello', { ...hello, software: 'x'.repeat(65) }],
    ['hello', { ...hello, formats: [] }],
    ['hello', { ...hello, formats: new Array(33).fill('a') }],
    ['hello', { ...hello, limits: { maxDataFrameBytes: 2 ** 31 } }],
    ['hello', { ...hello, limits: { maxDataFrameBytes: 0 } }],
    ['hello', { ...hello, secret: 'short' }],
    ['begin', { slot: '../etc', direction: 'send', durable: false }],
    ['begin', { slot: '/etc', direction: 'send', durable: false }],
    ['begin', { slot: 'a\u0000b', direction: 'send', durable: false }],
    ['begin', { slot: 'upper', direction: 'delete', durable: false }],
    ['ping', { id: -1, progress: 0 }],
    ['ping', { id: 1, progress: Number.MAX_VALUE }],
    ['refused', { code: 'x', message: 'y'.repeat(5000) }],
  ];
  for (const [name, value] of wrong) {
    assert.throws(
      () => decodeMessage(name, Buffer.from(JSON.stringify(value))),
      (error: unknown) => isDeltahopError(error, 'DELTAHOP_E_PROTOCOL'),
      JSON.stringify(value),
    );
  }
});

test('any bytes decode to a message or to DELTAHOP_E_PROTOCOL', () => {
  const names = (Object.keys(frameTypes) as (keyof typeof frameTypes)[]).filter(isControl);
  const payload = fc.oneof(
    fc.uint8Array({ minLength: 1, maxLength: 200 }),
    fc.json().map((text) => Buffer.from(text)),
    fc.constant(Buffer.from('['.repeat(60_000))),
  );
  fc.assert(
    fc.property(fc.constantFrom(...names), payload, (name, bytes) => {
      try {
        assert.is(decodeMessage(name, bytes).type, name);
      } catch (error) {
        assert.ok(isDeltahopError(error, 'DELTAHOP_E_PROTOCOL'), String(error));
      }
    }),
    { numRuns: 500 },
  );
});

test('versions N and N-1 talk to each other, others are told apart', () => {
  const speaks = (protocol: number, minProtocol: number) => ({ protocol, minProtocol });
  assert.is(negotiateVersion(speaks(1, 1), speaks(1, 1)), 1);
  assert.is(negotiateVersion(speaks(3, 2), speaks(2, 1)), 2);
  assert.is(negotiateVersion(speaks(2, 1), speaks(3, 2)), 2);
  assert.is(negotiateVersion(speaks(3, 2), speaks(3, 2)), 3);
  for (const [own, peer] of [
    [speaks(3, 2), speaks(1, 1)],
    [speaks(1, 1), speaks(3, 2)],
  ] as const) {
    assert.throws(
      () => negotiateVersion(own, peer),
      (error: unknown) =>
        isDeltahopError(error, 'DELTAHOP_E_UNSUPPORTED') && error.message.includes(`${peer.protocol}`),
    );
  }
  assert.ok(ownVersions.protocol - ownVersions.minProtocol <= 1);
});

test('errors keep their meaning across the wire', () => {
  const ownAffairs: ErrorCode[] = [
    'DELTAHOP_E_CANCELLED',
    'DELTAHOP_E_LINK',
    'DELTAHOP_E_WORKER',
    'DELTAHOP_E_TRUNCATED',
  ];
  for (const code of ['DELTAHOP_E_NO_SPACE', 'DELTAHOP_E_DENIED', 'DELTAHOP_E_MISMATCH', 'DELTAHOP_E_IO'] as const) {
    const arrived = fromWireError(toWireError(new DeltahopError(code, 'why it is so')), 'edge-b:1');
    assert.is(arrived.code, code);
    assert.match(arrived.message, 'edge-b:1 says: why it is so');
  }
  for (const code of ownAffairs)
    assert.is(fromWireError(toWireError(new DeltahopError(code, 'x')), 'p').code, 'DELTAHOP_E_PEER');
  for (const code of Object.keys(errorCatalogue) as ErrorCode[]) {
    assert.ok(Object.hasOwn(errorCatalogue, fromWireError(toWireError(new DeltahopError(code, 'x')), 'p').code));
  }
  assert.equal(toWireError(new Error('secret detail')), { code: 'failed', message: 'internal error' });
  for (const code of ['', 'no such', '__proto__', 'constructor']) {
    assert.is(fromWireError({ code, message: 'x' }, 'p').code, 'DELTAHOP_E_PEER');
  }
});

test('a peer cannot steer a terminal or forge a line', () => {
  const { message } = fromWireError({ code: 'io', message: '\u001b[2Jgone\r\n12:00 all is well\u009b\u202e' }, 'p');
  assert.is(message, 'p says: \\u001b[2Jgone\\u000d\\u000a12:00 all is well\\u009b\\u202e');
  assert.is(printable('Grüße, 世界'), 'Grüße, 世界');
});

test.run();
