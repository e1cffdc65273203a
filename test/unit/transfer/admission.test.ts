/** Who gets in: tickets, strangers, slow and hostile handshakes, bounds. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isDeltahopError } from '../../../src/errors.js';
import { TicketBook, ticketParts } from '../../../src/transfer/ticket.js';
import { FrameReader, frameHeader } from '../../../src/wire/frames.js';
import { decodeMessage, encodeMessage, isControl, type Message, preamble } from '../../../src/wire/messages.js';
import { rejection } from '../../support/rejection.js';
import { isAlive, type Loopback, patientTimes, sameData, shortTimes, until, withLoopback } from './loopback.js';

const entry = new URL('./fake-worker.js', import.meta.url);

/** A peer that speaks raw bytes. */
class RawPeer {
  readonly socket: Socket;
  readonly messages: Message[] = [];
  /** ms from the connection to its end. */
  readonly ended: Promise<number>;

  private constructor(socket: Socket) {
    this.socket = socket;
    const reader = new FrameReader();
    const startedAt = performance.now();
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      for (const { name, payload } of reader.read(chunk)) {
        if (isControl(name)) this.messages.push(decodeMessage(name, payload));
      }
    });
    this.ended = once(socket, 'close').then(() => performance.now() - startedAt);
  }

  static async connect(port: number): Promise<RawPeer> {
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    return new RawPeer(socket);
  }

  refusal(): string | undefined {
    const refused = this.messages.find(({ type }) => type === 'refused');
    return refused?.type === 'refused' ? refused.code : undefined;
  }
}

function prelude(ticket: string): Buffer {
  const parts = ticketParts(ticket);
  if (parts === null) throw new Error('no ticket');
  return Buffer.concat([preamble, parts.ticketId]);
}

function hello(ticket: string, changes: object = {}): Buffer {
  return encodeMessage({
    type: 'hello',
    protocol: 1,
    minProtocol: 1,
    software: 'test/1',
    engine: 'fake',
    formats: ['tree/1'],
    limits: { maxDataFrameBytes: 65536 },
    secret: ticketParts(ticket)?.secret ?? '',
    ...changes,
  });
}

/** A good client gets its work done now. */
async function stillServes(world: Loopback): Promise<void> {
  const source = await world.directory('good-source', 100_000);
  const target = await world.directory('good-target');
  const client = await world.client(world.ticket({ good: target }), { port: world.port, times: patientTimes });
  await client.send('good', source);
  assert.ok(await sameData(source, target));
  await client.close();
}

test('a ticket opens its own slots, in its own direction, and only with its secret', () =>
  withLoopback({ entry }, async (world) => {
    const source = await world.directory('source', 1000);
    const mine = world.ticket({ upper: await world.directory('mine') });
    const other = world.ticket({ memory: await world.directory('other') });
    const client = await world.client(mine);
    assert.match(await rejection(client.send('memory', source), 'DELTAHOP_E_DENIED'), 'slot memory');
    await rejection(client.receive('upper', source), 'DELTAHOP_E_DENIED');
    assert.is((await client.send('upper', source)).reconnects, 0, 'the connection serves on after a refusal');
    const [first, second] = [ticketParts(mine), ticketParts(other)];
    const forged = Buffer.concat([first?.ticketId ?? Buffer.of(), Buffer.from(second?.secret ?? '', 'base64url')]);
    for (const wrong of [forged.toString('base64url'), randomBytes(40).toString('base64url')]) {
      await rejection(world.client(wrong), 'DELTAHOP_E_DENIED');
    }
    for (const none of ['', 'x', randomBytes(39).toString('base64url'), `${mine}=`]) {
      await rejection(world.client(none), 'DELTAHOP_E_INVALID_ARGUMENT');
    }
    await world.server.revokeTicket(mine);
    await rejection(world.client(mine), 'DELTAHOP_E_DENIED');
    await world.client(other);
  }));

test('a ticket ends when nobody has used it for its lifetime, and not before', () => {
  const book = new TicketBook();
  const { ticket, text } = book.issue({ upper: { path: '/srv/x', durable: true } }, 40);
  const parts = ticketParts(text);
  assert.ok(parts !== null && book.find(parts.ticketId) === ticket && ticket.admits(parts.secret));
  assert.not(ticket.admits(`${parts.secret}A`));
  assert.not(ticket.admits(''));
  const release = ticket.hold();
  return new Promise<void>((resolve) => setTimeout(resolve, 60)).then(async () => {
    assert.is(book.find(parts.ticketId), ticket, 'held');
    release();
    release();
    assert.is(book.find(parts.ticketId), ticket, 'its lifetime starts anew');
    await new Promise((resolve) => setTimeout(resolve, 60));
    assert.is(book.find(parts.ticketId), null);
    assert.not(ticket.admits(parts.secret));
  });
});

test('tickets differ, and slots must be plain names of absolute paths', () => {
  const book = new TicketBook();
  const texts = new Set(Array.from({ length: 200 }, () => book.issue({}).text));
  assert.is(texts.size, 200);
  for (const text of texts) assert.is(Buffer.from(text, 'base64url').length, 40);
  for (const [name, path] of [
    ['../up', '/srv'],
    ['', '/srv'],
    ['up', 'srv'],
    ['UP', '/srv'],
  ] as const) {
    assert.throws(
      () => book.issue({ [name]: { path, durable: false } }),
      (error: unknown) => isDeltahopError(error, 'DELTAHOP_E_INVALID_ARGUMENT'),
    );
  }
});

/** More than a worker's start takes on a busy machine: a good client has to come through meanwhile. */
const slowHandshakeMs = 4000;

test('a slow handshake ends at the deadline, at every stage, and holds up nobody', () =>
  withLoopback({ entry, times: { ...patientTimes, handshakeMs: slowHandshakeMs } }, async (world) => {
    const ticket = world.ticket({ upper: await world.directory('target') });
    const whole = Buffer.concat([prelude(ticket), hello(ticket)]);
    const stages = [0, 1, 3, 4, 5, 19, 20, 21, 30, whole.length - 1];
    const peers = await Promise.all(stages.map(() => RawPeer.connect(world.port)));
    // More than the server lets one ticket have: those with its id push each other out, nobody waits for them.
    peers.forEach((peer, index) => {
      peer.socket.write(whole.subarray(0, stages[index]));
    });
    const dripping = await RawPeer.connect(world.port);
    let at = 0;
    const drip = setInterval(() => {
      dripping.socket.write(whole.subarray(at, at + 1));
      at += 1;
    }, 100);
    let times: number[];
    try {
      await stillServes(world);
      times = await Promise.all([...peers, dripping].map(({ ended }) => ended));
    } finally {
      clearInterval(drip);
    }
    for (const ms of times) assert.ok(ms < slowHandshakeMs * 2 + 2500, `${ms} ms`);
    assert.is(dripping.messages.filter(({ type }) => type === 'helloReply').length, 0);
  }));

test('a hello that arrives byte by byte during the hand-over to the worker loses none', () =>
  withLoopback({ entry, times: { ...shortTimes, handshakeMs: 4000 } }, async (world) => {
    const ticket = world.ticket({ upper: await world.directory('target') });
    const whole = Buffer.concat([prelude(ticket), hello(ticket)]);
    const peer = await RawPeer.connect(world.port);
    peer.socket.setNoDelay(true);
    for (const byte of whole) {
      peer.socket.write(Buffer.of(byte));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await until('the reply', () => peer.messages.some(({ type }) => type === 'helloReply'));
    peer.socket.destroy();
  }));

test('hostile bytes instead of a hello end that connection with a reason and nothing else', () =>
  withLoopback({ entry }, async (world) => {
    const ticket = world.ticket({ upper: await world.directory('target') });
    const start = prelude(ticket);
    const garbage = (type: number, bytes: number): Buffer => {
      const header = Buffer.alloc(5);
      header.writeUInt32LE(bytes, 0);
      header.writeUInt8(type, 4);
      return header;
    };
    const deep = Buffer.from('['.repeat(65_000));
    const cases: [string, Buffer, string | undefined][] = [
      ['no preamble', Buffer.from('GET / HTTP/1.1\r\n\r\n'.padEnd(64)), 'protocol'],
      ['unknown ticket', Buffer.concat([preamble, randomBytes(16), hello(ticket)]), 'denied'],
      ['wrong secret', Buffer.concat([start, hello(ticket, { secret: 'A'.repeat(32) })]), 'denied'],
      ['huge length', Buffer.concat([start, garbage(1, 0xffffffff)]), 'limit'],
      ['huge data', Buffer.concat([start, garbage(15, 0x7fffffff)]), 'limit'],
      ['unknown type', Buffer.concat([start, garbage(200, 10)]), 'protocol'],
      ['empty frame', Buffer.concat([start, garbage(1, 0)]), 'limit'],
      ['data before hello', Buffer.concat([start, garbage(15, 4), Buffer.from('abcd')]), 'protocol'],
      [
        'begin before hello',
        Buffer.concat([start, encodeMessage({ type: 'begin', slot: 'upper', direction: 'send', durable: false })]),
        'protocol',
      ],
      ['deep JSON', Buffer.concat([start, frameHeader('hello', deep.length), deep]), 'protocol'],
      ['old version', Buffer.concat([start, hello(ticket, { protocol: 9, minProtocol: 8 })]), 'unsupported'],
      ['unknown format', Buffer.concat([start, hello(ticket, { formats: ['tree/99'] })]), 'unsupported'],
      ['two hellos', Buffer.concat([start, hello(ticket), hello(ticket)]), 'protocol'],
      ['data after hello', Buffer.concat([start, hello(ticket), garbage(15, 4), Buffer.from('abcd')]), 'protocol'],
      [
        'path as slot',
        Buffer.concat([
          start,
          hello(ticket),
          frameHeader('begin', 56),
          Buffer.from('{"slot":"/etc","direction":"send","durable":false}'.padEnd(56)),
        ]),
        'protocol',
      ],
      [
        'seventeen messages',
        Buffer.concat([
          start,
          hello(ticket),
          ...Array.from({ length: 40 }, () =>
            encodeMessage({ type: 'begin', slot: 'upper', direction: 'send', durable: false }),
          ),
        ]),
        'protocol',
      ],
    ];
    for (let index = 0; index < 6; index += 1)
      cases.push([`random ${index}`, Buffer.concat([start, randomBytes(5000)]), undefined]);
    for (const [what, bytes, expected] of cases) {
      const peer = await RawPeer.connect(world.port);
      peer.socket.write(bytes);
      const ms = await peer.ended;
      assert.ok(ms < shortTimes.handshakeMs * 2 + 2500, `${what}: ${ms} ms`);
      if (expected === undefined) assert.ok(peer.refusal() !== undefined, what);
      else assert.is(peer.refusal(), expected, what);
    }
    assert.equal(
      world.events.filter(({ type }) => type === 'completed'),
      [],
    );
    await stillServes(world);
  }));

test('a flood of strangers does not keep a good client out', () =>
  withLoopback({ entry }, async (world) => {
    const before = world.serverPool.pids.length;
    const strangers = await Promise.all(Array.from({ length: 200 }, () => RawPeer.connect(world.port)));
    for (const { socket } of strangers) socket.write(Buffer.concat([preamble, Buffer.from('abc')]));
    const pushed = await Promise.race([...strangers.map(({ ended }) => ended)]);
    assert.ok(pushed < shortTimes.handshakeMs, 'the oldest had to go');
    const impostors = await Promise.all(Array.from({ length: 50 }, () => RawPeer.connect(world.port)));
    for (const { socket } of impostors) socket.write(Buffer.concat([preamble, randomBytes(16)]));
    await Promise.all(impostors.map(({ ended }) => ended));
    assert.ok(impostors.every((peer) => peer.refusal() === 'denied'));
    assert.ok(world.serverPool.pids.length <= before + 1, 'strangers cost no process');
    await stillServes(world);
    for (const { socket } of strangers) socket.destroy();
  }));

test('a ticket has four connections at most, the oldest idle one goes; a server has its bound', () =>
  withLoopback({ entry, maxConnections: 5, times: { ...shortTimes, silenceMs: 60_000 } }, async (world) => {
    const ticket = world.ticket({ upper: await world.directory('target') });
    const peers: RawPeer[] = [];
    for (let index = 0; index < 6; index += 1) {
      const peer = await RawPeer.connect(world.port);
      peers.push(peer);
      peer.socket.write(Buffer.concat([prelude(ticket), hello(ticket)]));
      await until('its reply', () => peer.messages.length > 0);
      assert.is(peer.messages[0]?.type, 'helloReply');
    }
    assert.equal(
      peers.map(({ socket }) => socket.closed),
      [true, true, false, false, false, false],
    );
    await world.client(world.ticket({ upper: await world.directory('b') }), { port: world.port });
    await rejection(
      world.client(world.ticket({ upper: await world.directory('c') }), { port: world.port }),
      'DELTAHOP_E_BUSY',
    );
    for (const { socket } of peers) socket.destroy();
    await until('room again', async () => {
      const client = await world
        .client(world.ticket({ upper: await world.directory('d') }), { port: world.port })
        .catch(() => null);
      return client !== null;
    });
  }));

test('nobody answers, nobody listens, or the caller does not want to wait', () =>
  withLoopback({ entry }, async (world) => {
    const ticket = world.ticket({ upper: await world.directory('target') });
    assert.match(
      await rejection(world.client(ticket, { port: 1 }), 'DELTAHOP_E_LINK'),
      'cannot connect to 127.0.0.1:1: ECONNREFUSED',
    );
    const mute = await import('node:net').then(({ createServer }) => createServer(() => {}));
    mute.listen(0, '127.0.0.1');
    await once(mute, 'listening');
    const address = mute.address();
    const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
    assert.match(await rejection(world.client(ticket, { port }), 'DELTAHOP_E_LINK'), 'nothing came from');
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 100);
    const startedAt = performance.now();
    await rejection(world.client(ticket, { port, signal: abort.signal }), 'DELTAHOP_E_CANCELLED');
    assert.ok(performance.now() - startedAt < 1500);
    mute.close();
    const pids = world.clientPool.pids;
    await until('no worker of a failed connection lives', async () => {
      const alive = await Promise.all(world.clientPool.pids.map((pid) => isAlive(pid)));
      return alive.filter(Boolean).length <= 1;
    });
    assert.ok(pids.length >= 1);
    assert.is(await stat(join(world.root, 'target', 'data')).catch(() => null), null);
  }));

test.run();
