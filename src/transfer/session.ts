/**
 * One data connection from hello to bye: its client's half, its server's half, and the transfer that both run alike. Calls an
 * engine; knows neither processes nor tickets.
 */
import type { Duplex } from 'node:stream';
import type {
  CommonFile,
  Engine,
  OperationOptions,
  OperationReport,
  Progress,
  ReceiveOptions,
  SendOptions,
} from '../engine/engine.js';
import { DeltahopError, isDeltahopError } from '../errors.js';
import type { TransportStream } from '../transport/stream.js';
import { maxDataPayloadBytes } from '../wire/frames.js';
import {
  fromWireError,
  type Message,
  type MessageOf,
  negotiateVersion,
  ownVersions,
  preamble,
  toWireError,
  type VersionRange,
  type WireError,
} from '../wire/messages.js';
import { defaultLinkTimes, Link, type LinkTimes } from './link.js';

/** Every wait of a session has one of these. */
export interface SessionTimes extends LinkTimes {
  /** From the start of a connection to the end of its hello. */
  handshakeMs: number;
  /** How long a transfer may stand still, on both sides, though both are alive. */
  noProgressMs: number;
  /** How long an engine job and the peer may take to end after an abort. */
  abortMs: number;
}

/** The times of the specification (PROTOCOL.md, section 5). */
export const defaultSessionTimes: SessionTimes = {
  ...defaultLinkTimes,
  handshakeMs: 5000,
  noProgressMs: 120_000,
  abortMs: 5000,
};

/** `send` the tree to the peer, or `receive` it from there. */
export type Direction = 'send' | 'receive';

/** Formats of engine streams that this build reads and writes. */
const ownFormats = ['tree/1'];
const softwareName = 'deltahop/0.1';

/** What a side says of itself in its first message. */
export function identity(engine: Engine) {
  return {
    software: softwareName,
    engine: engine.name,
    formats: ownFormats,
    limits: { maxDataFrameBytes: maxDataPayloadBytes },
  };
}

/** One transfer as the client asks for it. */
export interface TransferRequest {
  slot: string;
  direction: Direction;
  /** The tree at this side. */
  treePath: string;
  /** Stable storage at the receiving side before the transfer counts as done. */
  durable: boolean;
  /** Options of the engine for the client's own side, without signal and callbacks. */
  sendOptions?: Omit<SendOptions, keyof OperationOptions>;
}

/** The client's half. */
export class ClientSession {
  readonly link: Link;
  readonly #engine: Engine;
  readonly #times: SessionTimes;

  private constructor(link: Link, engine: Engine, times: SessionTimes) {
    this.link = link;
    this.#engine = engine;
    this.#times = times;
  }

  /**
   * Says hello on a fresh connection.
   * @throws DeltahopError DELTAHOP_E_DENIED, DELTAHOP_E_BUSY, DELTAHOP_E_UNSUPPORTED as the server says, DELTAHOP_E_LINK,
   * DELTAHOP_E_TIMEOUT, DELTAHOP_E_CANCELLED. The connection is then closed.
   */
  static async open(
    stream: TransportStream,
    engine: Engine,
    credentials: { ticketId: Buffer; secret: string },
    options: { times?: SessionTimes; versions?: VersionRange; signal?: AbortSignal | undefined } = {},
  ): Promise<ClientSession> {
    const times = options.times ?? defaultSessionTimes;
    const versions = options.versions ?? ownVersions;
    const link = new Link(stream, times);
    const onAbort = () =>
      link.fail(new DeltahopError('DELTAHOP_E_CANCELLED', `connecting to ${link.peer} was cancelled`));
    if (options.signal?.aborted) onAbort();
    options.signal?.addEventListener('abort', onAbort, { once: true });
    try {
      link.sendRaw(Buffer.concat([preamble, credentials.ticketId]));
      // The server has handshakeMs, counted from when the connection reaches it: a refusal at its end shall still be heard.
      link.send({ type: 'hello', ...versions, ...identity(engine), secret: credentials.secret });
      const reply = await link.expect('helloReply', times.handshakeMs * 2);
      try {
        negotiateVersion(versions, { protocol: reply.protocol, minProtocol: reply.protocol });
        requireCommonFormat(reply.formats);
      } catch (error) {
        link.fail(error as DeltahopError);
        throw error;
      }
      link.limitDataFrames(reply.limits.maxDataFrameBytes);
      return new ClientSession(link, engine, times);
    } finally {
      options.signal?.removeEventListener('abort', onAbort);
    }
  }

  /**
   * Runs one transfer; one at a time. After an error the session still serves further ones unless `link.error` is set.
   * @throws DeltahopError what the engine, the peer or the link says.
   */
  async transfer(request: TransferRequest, options: OperationOptions): Promise<OperationReport> {
    const { slot, direction, treePath, durable } = request;
    // The bytes follow at once, without waiting for `ready`: a round trip less in every transfer, also under freeze.
    this.link.send({ type: 'begin', slot, direction, durable });
    return await runTransfer(this.link, this.#times, options, {
      side: 'client',
      job: (channel, jobOptions) =>
        direction === 'send'
          ? this.#engine.send(treePath, channel, { ...request.sendOptions, ...jobOptions })
          : this.#engine.receive(treePath, channel, { durable, ...jobOptions }),
    });
  }

  /** Says bye. */
  async close(): Promise<void> {
    await this.link.close();
  }
}

/** What a server's session asks its owner; each may reject with a DeltahopError, which the peer is told. */
export interface ServerAuthority {
  /** Is this the secret of the ticket under which the connection came in? */
  admit(secret: string): Promise<void>;
  /** May the client do this now, and where is it? */
  grant(
    slot: string,
    direction: Direction,
  ): Promise<{
    path: string;
    durable: boolean;
    inPlace?: boolean | undefined;
    recordPath?: string | undefined;
    common?: readonly CommonFile[] | undefined;
  }>;
  progress(slot: string, progress: Progress): void;
  /** The client hears that the transfer is done only after this: whoever owns the slot already knows then. */
  completed(slot: string, report: OperationReport): Promise<void>;
  failed(slot: string, error: DeltahopError): void;
}

/**
 * The server's half: serves one connection (the prelude is read already) until its end.
 * @returns null after the client's bye, else why the connection ended.
 */
export async function serveSession(
  stream: TransportStream,
  engine: Engine,
  authority: ServerAuthority,
  options: { times?: SessionTimes; versions?: VersionRange; signal?: AbortSignal; onLink?: (link: Link) => void } = {},
): Promise<DeltahopError | null> {
  const times = options.times ?? defaultSessionTimes;
  const versions = options.versions ?? ownVersions;
  const link = new Link(stream, times);
  options.onLink?.(link);
  // To the peer this is a link that broke: it may come again, and is then told if it may not.
  const onAbort = () =>
    link.fail(new DeltahopError('DELTAHOP_E_LINK', `the connection of ${link.peer} was ended here`));
  if (options.signal?.aborted) onAbort();
  options.signal?.addEventListener('abort', onAbort, { once: true });
  try {
    await answerHello(link, engine, authority, versions, times);
    for (;;) {
      const message = await link.next('begin', null);
      if (message.type === 'bye') break;
      if (message.type !== 'begin') {
        throw new DeltahopError('DELTAHOP_E_PROTOCOL', `${link.peer} sent ${message.type} where begin belongs`);
      }
      await serveTransfer(link, engine, authority, times, message, options.signal);
    }
    await link.close();
  } catch (error) {
    link.fail(asDeltahopError(error));
  } finally {
    options.signal?.removeEventListener('abort', onAbort);
  }
  await link.closed;
  return link.error;
}

async function answerHello(
  link: Link,
  engine: Engine,
  authority: ServerAuthority,
  versions: VersionRange,
  times: SessionTimes,
): Promise<void> {
  const hello = await link.expect('hello', times.handshakeMs);
  await authority.admit(hello.secret);
  // Only now: a stranger learns nothing about us, not even our version.
  const protocol = negotiateVersion(versions, hello);
  requireCommonFormat(hello.formats);
  link.limitDataFrames(hello.limits.maxDataFrameBytes);
  link.send({ type: 'helloReply', protocol, ...identity(engine) });
}

async function serveTransfer(
  link: Link,
  engine: Engine,
  authority: ServerAuthority,
  times: SessionTimes,
  { slot, direction, durable }: MessageOf<'begin'>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const options: OperationOptions = {
    onProgress: (progress) => authority.progress(slot, progress),
    ...(signal === undefined ? {} : { signal }),
  };
  try {
    await runTransfer(link, times, options, {
      side: 'server',
      job: async (channel, jobOptions) => {
        const granted = await authority.grant(slot, direction);
        jobOptions.signal.throwIfAborted();
        link.send({ type: 'ready' });
        const { inPlace = false, recordPath, common = [] } = granted;
        const receiveOptions: ReceiveOptions = {
          durable: granted.durable || durable,
          inPlace,
          common,
          ...(recordPath === undefined ? {} : { recordPath }),
          ...jobOptions,
        };
        return direction === 'send'
          ? await engine.receive(granted.path, channel, receiveOptions)
          : await engine.send(granted.path, channel, jobOptions);
      },
      completed: (report) => authority.completed(slot, report),
    });
  } catch (error) {
    const reason = asDeltahopError(error);
    authority.failed(slot, reason);
    if (link.error !== null) throw link.error;
  }
}

/** This side's part of one transfer. */
export interface TransferRun {
  side: 'client' | 'server';
  /** Takes a further message of the peer's that may come within a transfer; false for one that may not. */
  onMessage?(message: Message): boolean;
  job(channel: Duplex, options: OperationOptions & { signal: AbortSignal }): Promise<OperationReport>;
  completed?(report: OperationReport): Promise<void>;
}

/**
 * Runs one engine job against the peer's, to the end of both. Both sides say `done`, with their error if they had one; the
 * connection is clean again once both did.
 */
export async function runTransfer(
  link: Link,
  times: SessionTimes,
  { signal, onProgress }: OperationOptions,
  run: TransferRun,
): Promise<OperationReport> {
  const abort = new AbortController();
  const cancelled = () => new DeltahopError('DELTAHOP_E_CANCELLED', 'the transfer was cancelled');
  const onAbort = () => abort.abort(cancelled());
  if (signal?.aborted) onAbort();
  signal?.addEventListener('abort', onAbort, { once: true });
  let ended = false;
  void link.ended.then((error) => {
    if (!ended) abort.abort(error ?? new DeltahopError('DELTAHOP_E_LINK', `${link.peer} closed the connection`));
  });

  link.lastProgressAt = performance.now();
  link.ownProgress = 0;
  const watch = setInterval(
    () => {
      if (performance.now() - link.lastProgressAt <= times.noProgressMs) return;
      link.fail(
        new DeltahopError(
          'DELTAHOP_E_TIMEOUT',
          `the transfer with ${link.peer} stood still for ${times.noProgressMs} ms`,
        ),
      );
    },
    Math.min(1000, times.noProgressMs / 4),
  );
  // An engine or a peer that does not end after an abort is left behind with the link.
  let abortTimer: NodeJS.Timeout | undefined;
  abort.signal.addEventListener('abort', () => {
    abortTimer = setTimeout(() => link.fail(asDeltahopError(abort.signal.reason)), times.abortMs);
  });

  const channel = link.openChannel();
  try {
    const peerDone = awaitPeerDone(link, run, (error) => abort.abort(error));
    // Its failure is the link's, of which the job hears by the abort; who reads it first is not fixed.
    peerDone.catch(() => {});
    const job = run.job(channel, {
      signal: abort.signal,
      onProgress: (progress) => {
        if (progress.doneBytes > link.ownProgress) link.lastProgressAt = performance.now();
        link.ownProgress = Math.max(link.ownProgress, progress.doneBytes);
        onProgress?.(progress);
      },
    });
    let report: OperationReport | null = null;
    let jobError: DeltahopError | null = null;
    try {
      report = await boundedByLink(link, job, times.abortMs);
      await link.flushChannel();
      await run.completed?.(report);
    } catch (error) {
      jobError = asDeltahopError(error);
      report = null;
      if (!abort.signal.aborted) abort.abort(jobError);
    }
    if (link.error !== null) throw link.error;
    link.closeChannel(channel);
    link.send({ type: 'done', error: jobError === null ? null : toWireError(firstReason(abort.signal, jobError)) });
    const peerError = await peerDone;
    if (signal?.aborted && jobError !== null) throw cancelled();
    if (jobError !== null && peerError !== null && echoes(jobError)) throw fromWireError(peerError, link.peer);
    if (jobError !== null) throw firstReason(abort.signal, jobError);
    if (peerError !== null) throw fromWireError(peerError, link.peer);
    if (report === null) throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'a transfer without an outcome');
    return report;
  } finally {
    ended = true;
    clearInterval(watch);
    clearTimeout(abortTimer);
    signal?.removeEventListener('abort', onAbort);
    link.closeChannel(channel);
  }
}

/** Reads messages until the peer's `done`; its failure, or its refusal before that, is told at once. */
async function awaitPeerDone(
  link: Link,
  run: TransferRun,
  onFailure: (error: DeltahopError) => void,
): Promise<WireError | null> {
  let ready = run.side === 'server';
  for (;;) {
    const message = await link.next('done', null);
    if (message.type === 'ready' && !ready) {
      ready = true;
      continue;
    }
    if (run.onMessage?.(message)) continue;
    if (message.type !== 'done') {
      const error = new DeltahopError('DELTAHOP_E_PROTOCOL', `${link.peer} sent ${message.type} within a transfer`);
      link.fail(error);
      throw error;
    }
    if (message.error !== null) onFailure(fromWireError(message.error, link.peer));
    return message.error;
  }
}

/**
 * The job's outcome. When the link ends, the job still gets `abortMs` to put away what it has for the next connection; one
 * that ignores its abort must not hold its session.
 */
async function boundedByLink<T>(link: Link, job: Promise<T>, abortMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let hasEnded = false;
  const overdue = new Promise<never>((_resolve, reject) => {
    void link.ended.then((error) => {
      // A timer set for nothing would still keep the process.
      if (hasEnded) return;
      const reason = error ?? new DeltahopError('DELTAHOP_E_LINK', `${link.peer} closed the connection`);
      timer = setTimeout(() => reject(reason), abortMs);
    });
  });
  try {
    return await Promise.race([job, overdue]);
  } finally {
    hasEnded = true;
    clearTimeout(timer);
    job.catch(() => {});
  }
}

/** An engine that was aborted says so; what made us abort it says more. */
function firstReason(signal: AbortSignal, jobError: DeltahopError): DeltahopError {
  return jobError.code === 'DELTAHOP_E_CANCELLED' && isDeltahopError(signal.reason) ? signal.reason : jobError;
}

/** Errors that only say that the other side failed. */
function echoes(error: DeltahopError): boolean {
  return (
    error.code === 'DELTAHOP_E_PEER' || error.code === 'DELTAHOP_E_CANCELLED' || error.code === 'DELTAHOP_E_TRUNCATED'
  );
}

/** @throws DeltahopError DELTAHOP_E_UNSUPPORTED if the peer knows none of our formats. */
export function requireCommonFormat(formats: readonly string[]): void {
  if (formats.some((format) => ownFormats.includes(format))) return;
  throw new DeltahopError(
    'DELTAHOP_E_UNSUPPORTED',
    `no common format of transfers: here ${ownFormats.join(', ')}, there ${formats.join(', ')}`,
  );
}

/** Any error as one of the catalogue. */
export function asDeltahopError(error: unknown): DeltahopError {
  if (error instanceof DeltahopError) return error;
  if (error instanceof Error && error.name === 'AbortError') {
    return new DeltahopError('DELTAHOP_E_CANCELLED', 'the transfer was cancelled', { cause: error });
  }
  const words = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return new DeltahopError('DELTAHOP_E_PEER', `unexpected failure of a transfer: ${words}`, { cause: error });
}
