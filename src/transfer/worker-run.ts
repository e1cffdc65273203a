/**
 * What a transfer worker does: one connection, on the agent's word, then it ends. It is told a path only when the agent has
 * granted it, and it ends with its agent.
 */
import { Socket } from 'node:net';
import type { Engine, OperationReport, Progress } from '../engine/engine.js';
import { DeltahopError } from '../errors.js';
import type { TransportStream } from '../transport/stream.js';
import { connectTcp, tcpStream } from '../transport/tcp.js';
import type { Link } from './link.js';
import { asDeltahopError, ClientSession, type ServerAuthority, serveSession } from './session.js';
import { type SyncOffer, serveSync } from './sync.js';
import { SyncMemory } from './sync-memory.js';
import { ModuleFiles } from './sync-place.js';
import { ticketParts } from './ticket.js';
import {
  type Command,
  type Counters,
  commandSchema,
  fromErrorRecord,
  toErrorRecord,
  type WorkerEvent,
} from './worker-messages.js';

const nothing: Counters = { bytesSent: 0, bytesReceived: 0 };
const progressPauseMs = 100;

/** Serves the parent process; returns at once, the process lives on until its connection or its parent ends. */
export function runWorker(load: () => Engine): void {
  // Ctrl-C on a terminal reaches the whole process group; whether to end a transfer is the agent's decision.
  process.on('SIGINT', () => {});
  process.on('SIGHUP', () => {});
  process.on('disconnect', () => process.exit(0));
  let engine: Engine;
  try {
    engine = load();
  } catch (error) {
    lastWord(asDeltahopError(error), nothing);
    return;
  }
  const worker = new Worker(engine);
  process.on('message', (value, handle) => {
    const command = commandSchema.safeParse(value);
    if (!command.success) {
      lastWord(new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `not a command: ${command.error.message}`), nothing);
      return;
    }
    worker.handle(command.data, handle instanceof Socket ? handle : null);
  });
  tell({ type: 'warm', engine: engine.name });
}

/** The one connection of this process. */
class Worker {
  readonly #engine: Engine;
  readonly #abort = new AbortController();
  #session: ClientSession | null = null;
  #transferAbort: AbortController | null = null;
  #answer: {
    resolve(slot: { path: string; durable: boolean } | null): void;
    reject(error: DeltahopError): void;
  } | null = null;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  handle(command: Command, socket: Socket | null): void {
    switch (command.type) {
      case 'connect':
        void this.#connect(command);
        return;
      case 'serve':
        void this.#serve(command, socket);
        return;
      case 'serveSync':
        void this.#serveSync(command, socket);
        return;
      case 'transfer':
        void this.#transfer(command);
        return;
      case 'cancel':
        if (this.#session === null) this.#abort.abort();
        else this.#transferAbort?.abort();
        return;
      case 'close':
        if (this.#session === null) this.#abort.abort();
        else void this.#session.close();
        return;
      case 'allow':
        this.#answer?.resolve(command.slot);
        this.#answer = null;
        return;
      case 'refuse':
        this.#answer?.reject(fromErrorRecord(command.error));
        this.#answer = null;
        return;
    }
  }

  async #connect({ host, port, ticket, connectMs, times }: Extract<Command, { type: 'connect' }>): Promise<void> {
    let stream: TransportStream | null = null;
    try {
      const credentials = ticketParts(ticket);
      if (credentials === null) throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', 'the ticket is not one');
      const { signal } = this.#abort;
      stream = await connectTcp({ host, port, deadlineMs: connectMs, signal });
      const session = await ClientSession.open(stream, this.#engine, credentials, { times, signal });
      this.#session = session;
      tell({ type: 'connected', counters: session.link.counters });
      const error = await session.link.ended;
      await session.link.closed;
      // A transfer under way reports its failure first; it has a bound of its own.
      while (this.#transferAbort !== null) await new Promise((resolve) => setTimeout(resolve, 10));
      lastWord(error, session.link.counters);
    } catch (error) {
      lastWord(asDeltahopError(error), stream ?? nothing);
    }
  }

  async #transfer(command: Extract<Command, { type: 'transfer' }>): Promise<void> {
    const session = this.#session;
    const { slot, direction, treePath, durable, sendOptions } = command;
    if (session === null || this.#transferAbort !== null) {
      const error = new DeltahopError(
        'DELTAHOP_E_INVALID_ARGUMENT',
        'a transfer without a connection, or during another',
      );
      tell({ type: 'failed', slot, error: toErrorRecord(error), usable: false, counters: nothing });
      return;
    }
    const abort = new AbortController();
    this.#transferAbort = abort;
    const { link } = session;
    try {
      const report = await session.transfer(
        { slot, direction, treePath, durable, sendOptions: definedOf(sendOptions) },
        { signal: abort.signal, onProgress: throttledProgress(slot, link) },
      );
      tell({ type: 'completed', slot, report: bounded(report), counters: link.counters });
    } catch (error) {
      tell({
        type: 'failed',
        slot,
        error: toErrorRecord(asDeltahopError(error)),
        usable: link.error === null,
        counters: link.counters,
      });
    } finally {
      this.#transferAbort = null;
    }
  }

  async #serve(
    { peer, headBase64, headBytes, times }: Extract<Command, { type: 'serve' }>,
    socket: Socket | null,
  ): Promise<void> {
    if (socket === null) {
      lastWord(new DeltahopError('DELTAHOP_E_LINK', `${peer} closed the connection`), nothing);
      return;
    }
    const stream = handedOver(socket, peer, headBase64, headBytes);
    let link: Link | null = null;
    const reporters = new Map<string, (progress: Progress) => void>();
    const counters = (): Counters => link?.counters ?? nothing;
    const authority: ServerAuthority = {
      admit: async (secret) => {
        await this.#ask({ type: 'hello', secret });
      },
      grant: async (slot, direction) => {
        const granted = await this.#ask({ type: 'begin', slot, direction });
        if (granted === null) throw new DeltahopError('DELTAHOP_E_DENIED', `no directory for slot ${slot}`);
        return granted;
      },
      progress: (slot, progress) => {
        let report = reporters.get(slot);
        if (report === undefined && link !== null) {
          report = throttledProgress(slot, link);
          reporters.set(slot, report);
        }
        report?.(progress);
      },
      completed: async (slot, report) => {
        await this.#ask({ type: 'completed', slot, report: bounded(report), counters: counters() });
      },
      failed: (slot, error) =>
        tell({ type: 'failed', slot, error: toErrorRecord(error), usable: link?.error === null, counters: counters() }),
    };
    const error = await serveSession(stream, this.#engine, authority, {
      times,
      signal: this.#abort.signal,
      onLink: (opened) => {
        link = opened;
      },
    });
    lastWord(error, counters());
  }

  async #serveSync(
    { peer, headBase64, headBytes, times, modules, memoryPath }: Extract<Command, { type: 'serveSync' }>,
    socket: Socket | null,
  ): Promise<void> {
    if (socket === null) {
      lastWord(new DeltahopError('DELTAHOP_E_LINK', `${peer} closed the connection`), nothing);
      return;
    }
    const stream = handedOver(socket, peer, headBase64, headBytes);
    const offer: SyncOffer = {
      memory: memoryPath === null ? undefined : new SyncMemory(this.#engine, memoryPath),
      files: (name, direction) => {
        const module = modules.find((candidate) => candidate.name === name);
        if (module === undefined) throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `there is no module ${name ?? ''}`);
        if (module.readOnly && direction === 'send') {
          throw new DeltahopError('DELTAHOP_E_DENIED', `module ${module.name} is read-only`);
        }
        return new ModuleFiles(this.#engine, module.path);
      },
      onOpened: ({ module, path, direction }) =>
        tell({ type: 'syncOpened', module: module ?? '', path, wants: direction }),
    };
    const error = await serveSync(this.#engine, stream, offer, { times, signal: this.#abort.signal });
    lastWord(error, stream);
  }

  /** One question at a time: the session asks them one after another. */
  async #ask(question: WorkerEvent): Promise<{ path: string; durable: boolean } | null> {
    return await new Promise((resolve, reject) => {
      this.#answer = { resolve, reject };
      tell(question);
    });
  }
}

/** The agent's socket as a stream: it has read and judged the first bytes, which crossed the socket all the same. */
function handedOver(socket: Socket, peer: string, headBase64: string, headBytes: number): TransportStream {
  const inner = tcpStream(socket, peer, Buffer.from(headBase64, 'base64'));
  return {
    duplex: inner.duplex,
    peer,
    get bytesSent() {
      return inner.bytesSent;
    },
    get bytesReceived() {
      return inner.bytesReceived + headBytes;
    },
  };
}

function tell(event: WorkerEvent): void {
  if (process.connected) process.send?.(event);
}

/** Says how it ended and ends the process, once the word has left or cannot. */
function lastWord(error: DeltahopError | null, { bytesSent, bytesReceived }: Counters): void {
  const event: WorkerEvent = {
    type: 'ended',
    error: error === null ? null : toErrorRecord(error),
    counters: { bytesSent, bytesReceived },
  };
  if (!process.connected || process.send === undefined) process.exit(0);
  setTimeout(() => process.exit(0), 1000);
  process.send(event, () => process.exit(0));
}

/** Ten events a second are enough for any eye; the last state comes with the transfer's end. */
function throttledProgress(slot: string, link: Link): (progress: Progress) => void {
  let saidAt = Number.NEGATIVE_INFINITY;
  return (progress) => {
    const now = performance.now();
    if (now - saidAt < progressPauseMs) return;
    saidAt = now;
    tell({ type: 'progress', slot, progress, counters: link.counters });
  };
}

function bounded({ statistics, notes }: OperationReport): { statistics: Record<string, number>; notes: string[] } {
  return { statistics: { ...statistics }, notes: notes.slice(0, 1000).map((note) => note.slice(0, 4096)) };
}

/** Without the fields that are undefined, which exactOptionalPropertyTypes tells apart from absent ones. */
function definedOf<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}
