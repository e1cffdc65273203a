/**
 * The accepting side of transfers, as the agent sees it: tickets, their slots, and a worker process for every connection that
 * brings a ticket's id. No frame is parsed here.
 */
import type { Socket } from 'node:net';
import type { OperationReport, Progress } from '../engine/engine.js';
import { DeltahopError } from '../errors.js';
import { handOver, readHead } from '../transport/tcp.js';
import { encodeMessage, preamble, preludeBytes, toWireError } from '../wire/messages.js';
import { asDeltahopError, type Direction, defaultSessionTimes, type SessionTimes } from './session.js';
import { type Slot, type Ticket, TicketBook, ticketParts } from './ticket.js';
import { type Counters, fromErrorRecord, toErrorRecord, type WorkerEvent } from './worker-messages.js';
import type { TransferWorker, WorkerPool } from './worker-pool.js';

/** What the owner of a ticket hears of its transfers; `slot` is null when none was under way. */
export type TicketEvent =
  | { type: 'started'; slot: string; direction: Direction }
  | ({ type: 'progress'; slot: string; progress: Progress } & Counters)
  /** The peer hears that the transfer is done only after this. Counters are those of the connection so far. */
  | ({ type: 'completed'; slot: string; report: OperationReport } & Counters)
  | { type: 'failed'; slot: string | null; error: DeltahopError };

/** What a ticket grants, and who hears of it. */
export interface TicketOptions {
  /** Directories by slot name. */
  slots: Readonly<Record<string, Slot>>;
  /** The ticket is void when no connection used it for so long; 10 minutes when absent. */
  lifetimeMs?: number;
  /** Must not throw. */
  onEvent?: (event: TicketEvent) => void;
}

/** Bounds of a server; tests lower them. */
export interface TransferServerOptions {
  pool: WorkerPool;
  /** Connections with a worker at once; 16 when absent. */
  maxConnections?: number;
  times?: SessionTimes;
}

const defaultMaxConnections = 16;
const maxConnectionsPerTicket = 4;
/** Connections that have not shown a ticket's id yet cost a socket each; beyond this the oldest has to go. */
const maxStrangers = 64;
/** How long the worker of a connection that has lost its slot may take to put away what it has. */
const supersedeMs = 1500;
const refusalMs = 1000;

/** One connection that has a worker. */
interface Connection {
  readonly grant: Grant;
  readonly peer: string;
  readonly worker: TransferWorker;
  /** Ends the ticket's being held, once admitted. */
  release: (() => void) | null;
  slot: string | null;
}

interface Grant {
  readonly ticket: Ticket;
  readonly onEvent: (event: TicketEvent) => void;
  readonly connections: Set<Connection>;
}

/** Accepts the data connections of one agent. */
export class TransferServer {
  readonly #pool: WorkerPool;
  readonly #maxConnections: number;
  readonly #times: SessionTimes;
  readonly #book = new TicketBook();
  readonly #grants = new Map<Ticket, Grant>();
  readonly #strangers = new Set<Socket>();
  #starting = 0;
  #closed = false;

  constructor(options: TransferServerOptions) {
    this.#pool = options.pool;
    this.#maxConnections = options.maxConnections ?? defaultMaxConnections;
    this.#times = options.times ?? defaultSessionTimes;
  }

  /**
   * A ticket for a peer: whoever has its text may use the slots, and nothing else.
   * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT
   */
  issueTicket({ slots, lifetimeMs, onEvent }: TicketOptions): string {
    const { ticket, text } = this.#book.issue(slots, lifetimeMs);
    for (const [old, grant] of this.#grants) {
      if (!old.valid && grant.connections.size === 0) this.#grants.delete(old);
    }
    this.#grants.set(ticket, { ticket, onEvent: onEvent ?? (() => {}), connections: new Set() });
    return text;
  }

  /** Whether connections with this ticket are still let in. */
  isOpen(ticketText: string): boolean {
    const parts = ticketParts(ticketText);
    return parts !== null && this.#book.find(parts.ticketId) !== null;
  }

  /** Voids a ticket. When this resolves, none of its workers lives and nothing writes to its slots. Never rejects. */
  async revokeTicket(ticketText: string): Promise<void> {
    const ticket = this.#book.revoke(ticketText);
    const grant = ticket === null ? undefined : this.#grants.get(ticket);
    if (ticket === null || grant === undefined) return;
    await Promise.all([...grant.connections].map(({ worker }) => worker.end(supersedeMs)));
    this.#grants.delete(ticket);
  }

  /**
   * Takes over an accepted connection. Never throws; the socket is closed if nothing comes of it.
   * @param head what was read from the socket so far; it begins with the preamble.
   */
  accept(socket: Socket, head: Buffer): void {
    // From here to the hand-over nobody else would catch a reset, and it would end the agent.
    socket.on('error', () => {});
    this.#accept(socket, head).catch((error: unknown) => refuse(socket, asDeltahopError(error)));
  }

  /** Ends all connections; tickets are void afterwards. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const socket of this.#strangers) socket.destroy();
    const connections = [...this.#grants.values()].flatMap((grant) => [...grant.connections]);
    for (const { ticket } of this.#grants.values()) ticket.revoke();
    await Promise.all(connections.map(({ worker }) => worker.end(supersedeMs)));
    this.#grants.clear();
  }

  async #accept(socket: Socket, head: Buffer): Promise<void> {
    const peer = peerName(socket);
    const deadline = performance.now() + this.#times.handshakeMs;
    const read = await this.#readPrelude(socket, head);
    if (!read.subarray(0, preamble.length).equals(preamble)) {
      throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'this is no data connection');
    }
    const ticket = this.#book.find(read.subarray(preamble.length, preludeBytes));
    const grant = ticket === null ? undefined : this.#grants.get(ticket);
    if (this.#closed || grant === undefined) {
      throw new DeltahopError('DELTAHOP_E_DENIED', 'the ticket is unknown or has expired');
    }
    await this.#makeRoom(grant);
    let worker: TransferWorker;
    try {
      worker = await this.#pool.take();
    } finally {
      this.#starting -= 1;
    }
    if (this.#closed || !grant.ticket.valid || socket.destroyed) {
      worker.kill();
      throw new DeltahopError('DELTAHOP_E_DENIED', 'the ticket is unknown or has expired');
    }
    const connection: Connection = { grant, peer, worker, release: null, slot: null };
    grant.connections.add(connection);
    worker.attach((event) => this.#onEvent(connection, event));
    void worker.exited.then(() => {
      connection.release?.();
      grant.connections.delete(connection);
    });
    const handshakeMs = Math.max(1, deadline - performance.now());
    try {
      handOver(socket, (rest) => {
        const headBase64 = Buffer.concat([read.subarray(preludeBytes), rest]).toString('base64');
        const times = { ...this.#times, handshakeMs };
        worker.tell({ type: 'serve', peer, headBytes: preludeBytes, headBase64, times }, socket);
      });
    } catch (error) {
      worker.kill();
      throw error;
    }
  }

  async #readPrelude(socket: Socket, head: Buffer): Promise<Buffer> {
    const [oldest] = this.#strangers;
    if (this.#strangers.size >= maxStrangers) oldest?.destroy();
    this.#strangers.add(socket);
    try {
      return await readHead(socket, preludeBytes, { deadlineMs: this.#times.handshakeMs, head });
    } finally {
      this.#strangers.delete(socket);
    }
  }

  /** Reserves a place (`#starting`). A peer whose link flaps must not lock itself out: its own oldest connection goes first, an idle one before a busy one. */
  async #makeRoom(grant: Grant): Promise<void> {
    if (grant.connections.size >= maxConnectionsPerTicket) {
      const [oldest] = grant.connections;
      const idle = [...grant.connections].find(({ slot }) => slot === null);
      await (idle ?? oldest)?.worker.end(supersedeMs);
    }
    let live = this.#starting;
    for (const { connections } of this.#grants.values()) live += connections.size;
    if (live >= this.#maxConnections) {
      throw new DeltahopError('DELTAHOP_E_BUSY', `${live} data connections are open already`);
    }
    this.#starting += 1;
  }

  #onEvent(connection: Connection, event: WorkerEvent): void {
    const { grant, worker } = connection;
    switch (event.type) {
      case 'hello': {
        if (connection.release === null && grant.ticket.admits(event.secret)) {
          connection.release = grant.ticket.hold();
          worker.tell({ type: 'allow', slot: null });
        } else {
          this.#refuse(worker, new DeltahopError('DELTAHOP_E_DENIED', 'the ticket is unknown or has expired'));
        }
        return;
      }
      case 'begin':
        void this.#begin(connection, event.slot, event.direction);
        return;
      case 'progress':
        if (event.slot !== connection.slot) return;
        grant.onEvent({ type: 'progress', slot: event.slot, progress: event.progress, ...event.counters });
        return;
      case 'completed':
        if (event.slot !== connection.slot) {
          this.#refuse(worker, new DeltahopError('DELTAHOP_E_PROTOCOL', `slot ${event.slot} was not begun`));
          return;
        }
        connection.slot = null;
        grant.onEvent({ type: 'completed', slot: event.slot, report: event.report, ...event.counters });
        worker.tell({ type: 'allow', slot: null });
        return;
      case 'failed':
        if (event.slot === connection.slot) connection.slot = null;
        grant.onEvent({ type: 'failed', slot: event.slot, error: fromErrorRecord(event.error) });
        return;
      case 'ended':
        if (event.error !== null && connection.slot !== null) {
          // It died within a transfer and could not say so itself.
          grant.onEvent({ type: 'failed', slot: connection.slot, error: fromErrorRecord(event.error) });
        }
        connection.slot = null;
        return;
      default:
        return;
    }
  }

  async #begin(connection: Connection, slotName: string, direction: Direction): Promise<void> {
    const { grant, worker } = connection;
    const slot = grant.ticket.slots.get(slotName);
    const access = direction === 'send' ? 'write' : 'read';
    if (connection.release === null || connection.slot !== null) {
      this.#refuse(worker, new DeltahopError('DELTAHOP_E_PROTOCOL', 'a transfer before the hello, or within another'));
      return;
    }
    if (slot === undefined || (slot.access ?? 'write') !== access || !grant.ticket.valid) {
      this.#refuse(
        worker,
        new DeltahopError('DELTAHOP_E_DENIED', `the ticket does not grant to ${direction} slot ${slotName}`),
      );
      return;
    }
    connection.slot = slotName;
    // A half-dead connection must not lock the slot, and two workers must not write to it: the older one ends first.
    const others = [...grant.connections].filter((other) => other !== connection && other.slot === slotName);
    await Promise.all(others.map((other) => other.worker.end(supersedeMs)));
    if (worker.gone || connection.slot !== slotName) return;
    grant.onEvent({ type: 'started', slot: slotName, direction });
    const { path, durable, inPlace = false, recordPath, common = [] } = slot;
    const granted = {
      path,
      durable,
      inPlace,
      common: [...common],
      ...(recordPath === undefined ? {} : { recordPath }),
    };
    worker.tell({ type: 'allow', slot: granted });
  }

  #refuse(worker: TransferWorker, error: DeltahopError): void {
    worker.tell({ type: 'refuse', error: toErrorRecord(error) });
  }
}

/** The other end of an accepted connection, for messages. */
export function peerName(socket: Socket): string {
  const host = socket.remoteAddress ?? 'unknown peer';
  return `${host.includes(':') ? `[${host}]` : host}:${socket.remotePort ?? 0}`;
}

/** Says why and closes; what the peer still sends is not read. */
export function refuse(socket: Socket, error: DeltahopError): void {
  if (socket.destroyed) return;
  socket.end(encodeMessage({ type: 'refused', ...toWireError(error) }));
  setTimeout(() => socket.destroy(), refusalMs).unref();
}
