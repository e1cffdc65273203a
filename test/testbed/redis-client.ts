/**
 * The user's program: keeps ONE TCP connection to a redis server, writes and reads numbered values, and counts what
 * went wrong. It speaks RESP over a plain socket, because a client library would hide a reconnect or repeat a command.
 *
 *   node redis-client.js HOST PORT [--fill-mib N] [--live]
 *
 * It prints JSON lines: `started` once the server answers and the data of --fill-mib is in; with --live one `live` a
 * second; and on SIGTERM, or when stdin closes, it reads back everything it was promised and prints `report`.
 */
import { createHash, randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

/** What the client saw. */
export interface RedisReport {
  /** Commands sent while counting. */
  requests: number;
  /** Writes that the server acknowledged. */
  acknowledged: number;
  /** Acknowledged writes that could not be read back, or not as they were written. */
  lost: number;
  /** Increments that took effect more often than the client asked for them. */
  duplicated: number;
  /** Connections after the first. */
  reconnects: number;
  /** The longest time between two replies. */
  longestGapMs: number;
}

/** A line that the client prints. */
export type RedisClientLine =
  | { type: 'started'; filledBytes: number }
  | ({ type: 'live' } & RedisReport)
  | ({ type: 'report' } & RedisReport);

type Reply = string | number | null | Error | Reply[];

/** Pause between two steps of three commands: some 200 steps a second, enough to see a gap of a few ms. */
const stepPauseMs = 5;
/** Keys are used again after so many, so that a long run does not grow the service. */
const keysKept = 2000;
/** How long a lost server is waited for before the verdict is given without it. */
const verdictDeadlineMs = 15_000;
const connectTimeoutMs = 1000;
const fillValueBytes = 16 * 1024;

/** A RESP connection with one reply for each command, in order. */
class RespConnection {
  readonly #socket: Socket;
  readonly #waiting: { resolve: (reply: Reply) => void; reject: (error: Error) => void }[] = [];
  #buffer: Buffer = Buffer.alloc(0);

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk) => this.#received(chunk));
    socket.once('close', () => {
      for (const waiting of this.#waiting.splice(0)) waiting.reject(new Error('the connection is lost'));
    });
    socket.on('error', () => {}); // 'close' follows
  }

  static open(host: string, port: number): Promise<RespConnection> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host, port });
      // A host that is gone refuses nothing; the kernel alone would try for two minutes.
      socket.setTimeout(connectTimeoutMs, () => socket.destroy(new Error('no answer')));
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.removeListener('error', reject);
        socket.setTimeout(0);
        resolve(new RespConnection(socket));
      });
    });
  }

  /** Sends a command; rejects if the connection is lost before its reply. */
  call(...parts: (string | Buffer)[]): Promise<Reply> {
    const pieces: Buffer[] = [Buffer.from(`*${parts.length}\r\n`)];
    for (const part of parts) {
      const bytes = Buffer.from(part);
      pieces.push(Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n'));
    }
    return new Promise((resolve, reject) => {
      if (this.#socket.destroyed) {
        reject(new Error('the connection is lost'));
        return;
      }
      this.#waiting.push({ resolve, reject });
      this.#socket.write(Buffer.concat(pieces));
    });
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #received(chunk: Buffer): void {
    this.#buffer = this.#buffer.length === 0 ? chunk : Buffer.concat([this.#buffer, chunk]);
    for (;;) {
      const parsed = parseReply(this.#buffer, 0);
      if (parsed === undefined) return;
      this.#buffer = this.#buffer.subarray(parsed.end);
      this.#waiting.shift()?.resolve(parsed.reply);
    }
  }
}

/** Parses one reply of RESP 2 (redis.io, "Redis serialization protocol"); undefined if it is not all there yet. */
function parseReply(buffer: Buffer, start: number): { reply: Reply; end: number } | undefined {
  const lineEnd = buffer.indexOf('\r\n', start);
  if (lineEnd < 0) return undefined;
  const line = buffer.toString('utf8', start + 1, lineEnd);
  let end = lineEnd + 2;
  switch (String.fromCharCode(buffer[start] ?? 0)) {
    case '+':
      return { reply: line, end };
    case '-':
      return { reply: new Error(line), end };
    case ':':
      return { reply: Number(line), end };
    case '$': {
      const length = Number(line);
      if (length < 0) return { reply: null, end };
      if (buffer.length < end + length + 2) return undefined;
      return { reply: buffer.toString('utf8', end, end + length), end: end + length + 2 };
    }
    case '*': {
      const replies: Reply[] = [];
      for (let left = Number(line); left > 0; left--) {
        const element = parseReply(buffer, end);
        if (element === undefined) return undefined;
        replies.push(element.reply);
        end = element.end;
      }
      return { reply: replies, end };
    }
    default:
      throw new Error(`not RESP: ${JSON.stringify(line)}`);
  }
}

/** The counting client. */
class CountingClient {
  readonly report: RedisReport = {
    requests: 0,
    acknowledged: 0,
    lost: 0,
    duplicated: 0,
    reconnects: 0,
    longestGapMs: 0,
  };
  readonly #host: string;
  readonly #port: number;
  // Names of its own, so that another run's values are never taken for this one's.
  readonly #prefix = `client:${randomBytes(4).toString('hex')}`;
  /** What each key must hold. A write without a reply may or may not have happened: then both values are right. */
  readonly #expected = new Map<string, Set<string>>();
  #connection: RespConnection | undefined;
  #everConnected = false;
  #step = 0;
  /** What the counter must hold at the least, and how many increments more were sent and never answered. */
  #counter = 0;
  #unansweredIncrements = 0;
  #lastReplyAt: number | undefined;
  #stopAt: number | undefined;

  constructor(host: string, port: number) {
    this.#host = host;
    this.#port = port;
  }

  /** Writes numbered records until `bytes` of them are in; not counted. */
  async fill(bytes: number): Promise<number> {
    let filled = 0;
    for (let record = 0; filled < bytes; record++) {
      const value = fillRecord(record);
      const reply = await (await this.#connected()).call('SET', `record:${record}`, value);
      if (reply instanceof Error) throw new Error(`the server refuses a record: ${reply.message}`);
      filled += value.length;
    }
    return filled;
  }

  /** One write, one increment and one read of something written before. */
  async step(): Promise<void> {
    const n = this.#step++;
    await this.#write(`${this.#prefix}:${n % keysKept}`, `${n}`);
    await this.#increment();
    await this.#check(`${this.#prefix}:${Math.floor(Math.random() * Math.min(this.#step, keysKept))}`);
    if (this.#stopAt === undefined) await sleep(stepPauseMs);
  }

  /** From now on a server that does not answer is waited for no longer than the deadline. */
  stop(): void {
    this.#stopAt ??= performance.now();
    setTimeout(() => this.#connection?.destroy(), verdictDeadlineMs).unref();
  }

  get stopping(): boolean {
    return this.#stopAt !== undefined;
  }

  /** Reads back all that was acknowledged. What cannot be read any more is lost. */
  async verify(): Promise<void> {
    for (const key of this.#expected.keys()) await this.#check(key);
    const counter = await this.#call('GET', `${this.#prefix}:counter`);
    if (typeof counter === 'string') this.#judgeCounter(Number(counter), this.#counter);
    else this.report.lost += this.#counter;
    this.#connection?.destroy();
  }

  /** The counts, with the gap that is open just now. */
  live(): RedisReport {
    const open = this.#lastReplyAt === undefined ? 0 : performance.now() - this.#lastReplyAt;
    return { ...this.report, longestGapMs: Math.round(Math.max(this.report.longestGapMs, open)) };
  }

  async #write(key: string, value: string): Promise<void> {
    const reply = await this.#call('SET', key, value);
    if (reply === 'OK') {
      this.report.acknowledged++;
      this.#expected.set(key, new Set([value]));
    } else {
      this.#expected.set(key, (this.#expected.get(key) ?? new Set(['(none)'])).add(value));
    }
  }

  async #increment(): Promise<void> {
    const reply = await this.#call('INCR', `${this.#prefix}:counter`);
    if (typeof reply !== 'number') {
      this.#unansweredIncrements++;
      return;
    }
    this.report.acknowledged++;
    this.#judgeCounter(reply, this.#counter + 1);
    this.#counter = reply;
    this.#unansweredIncrements = 0;
  }

  #judgeCounter(found: number, wanted: number): void {
    if (found < wanted) this.report.lost += wanted - found;
    this.report.duplicated += Math.max(0, found - wanted - this.#unansweredIncrements);
  }

  async #check(key: string): Promise<void> {
    const allowed = this.#expected.get(key);
    if (allowed === undefined) return; // lost already, and counted
    const reply = await this.#call('GET', key);
    // While it counts, a read that got no reply says nothing about the value; at the end it is the verdict.
    if (reply instanceof Error && !this.stopping) return;
    const found = reply === null ? '(none)' : reply;
    if (typeof found === 'string' && allowed.has(found)) return;
    this.report.lost++;
    this.#expected.delete(key);
  }

  /** Sends one command. An Error if the server refuses it, or if the connection is lost before the reply. */
  async #call(...parts: string[]): Promise<Reply> {
    this.report.requests++;
    let reply: Reply;
    try {
      reply = await (await this.#connected()).call(...parts);
    } catch (error) {
      this.#connection = undefined;
      return error as Error;
    }
    const now = performance.now();
    if (this.#lastReplyAt !== undefined) {
      this.report.longestGapMs = Math.max(this.report.longestGapMs, Math.round(now - this.#lastReplyAt));
    }
    this.#lastReplyAt = now;
    return reply;
  }

  /** The connection; a new one if the last was lost, as soon as the server takes it. */
  async #connected(): Promise<RespConnection> {
    while (this.#connection === undefined) {
      if (this.#stopAt !== undefined && performance.now() - this.#stopAt > verdictDeadlineMs) {
        throw new Error('the server has not come back');
      }
      try {
        this.#connection = await RespConnection.open(this.#host, this.#port);
        if (this.#everConnected) this.report.reconnects++;
        this.#everConnected = true;
      } catch {
        await sleep(50);
      }
    }
    return this.#connection;
  }
}

/** A record of numbered, half compressible data, as applications have it: words around hashes. Same number, same bytes. */
function fillRecord(record: number): Buffer {
  const lines: string[] = [];
  for (let line = 0, bytes = 0; bytes < fillValueBytes; line++) {
    const hash = createHash('sha256').update(`${record}.${line}`).digest('base64');
    const text = `{"record":${record},"line":${line},"state":"stored","token":"${hash}"}\n`;
    lines.push(text);
    bytes += text.length;
  }
  return Buffer.from(lines.join(''));
}

function print(line: RedisClientLine): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { 'fill-mib': { type: 'string', default: '0' }, live: { type: 'boolean', default: false } },
  });
  const [host, port] = positionals;
  if (host === undefined || port === undefined)
    throw new Error('usage: redis-client HOST PORT [--fill-mib N] [--live]');

  const client = new CountingClient(host, Number(port));
  const filledBytes = await client.fill(Number(values['fill-mib']) * 1024 * 1024);
  process.on('SIGTERM', () => client.stop());
  process.stdin.on('end', () => client.stop()).resume();
  print({ type: 'started', filledBytes });
  const timer = values.live ? setInterval(() => print({ type: 'live', ...client.live() }), 1000) : undefined;
  while (!client.stopping) await client.step();
  await client.verify();
  clearInterval(timer);
  print({ type: 'report', ...client.live() });
  process.exit(0);
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
