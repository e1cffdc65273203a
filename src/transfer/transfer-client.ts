/** The connecting side of transfers, as the agent sees it: one connection at a time, in a worker process, made anew when it breaks. */

import { isAbsolute } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OperationReport, Progress, ReceiveOptions, SendOptions } from '../engine/engine.js';
import { DeltahopError, isDeltahopError } from '../errors.js';
import { asDeltahopError, type Direction, defaultSessionTimes, type SessionTimes } from './session.js';
import { type Command, type Counters, fromErrorRecord, type WorkerEvent } from './worker-messages.js';
import type { TransferWorker, WorkerPool } from './worker-pool.js';

/** How a transfer ended well. */
export interface TransferReport extends OperationReport {
  /** Bytes that crossed the socket since the last report: greetings, heartbeats and broken tries of this transfer included. */
  bytesSent: number;
  bytesReceived: number;
  ms: number;
  /** How many times the connection had to be made anew. */
  reconnects: number;
}

/** Where to connect to, and with what patience. */
export interface TransferClientOptions {
  pool: WorkerPool;
  host: string;
  port: number;
  /** As the server issued it. */
  ticket: string;
  signal?: AbortSignal;
  /** For how long a broken connection is made anew until it moves something again; 30 s when absent, 0: never. */
  retryMs?: number;
  /** How long making one connection may take; 10 s when absent. */
  connectMs?: number;
  /** Deadlines of the session; tests shorten them. */
  times?: SessionTimes;
}

const defaultRetryMs = 30_000;
const defaultConnectMs = 10_000;
const firstPauseMs = 100;
const longestPauseMs = 2000;
/** A try that moved so much counts as progress: the patience starts anew. */
const progressBytes = 64 * 1024;
/** A worker that dies so often in a row dies of what it is given. */
const maxWorkerDeaths = 3;
/** More broken connections than this are counted, not described. */
const maxTroubles = 20;
/** Beyond the session's own bound for an abort, before its process is ended. */
const abortGraceMs = 1000;

/** A connection that is up, and the worker that holds it. */
interface Connection {
  worker: TransferWorker;
  counters: Counters;
  /** Hears the events of the transfer under way. */
  listener: ((event: WorkerEvent) => void) | null;
  ended: DeltahopError | null;
}

/** Sends trees into, and fetches trees from, the slots of one ticket. One transfer at a time. */
export class TransferClient {
  readonly #options: TransferClientOptions;
  readonly #times: SessionTimes;
  readonly #retryMs: number;
  #connection: Connection | null = null;
  #past: Counters = { bytesSent: 0, bytesReceived: 0 };
  #reported: Counters = { bytesSent: 0, bytesReceived: 0 };
  #busy = false;
  #closed = false;

  private constructor(options: TransferClientOptions) {
    this.#options = options;
    this.#times = options.times ?? defaultSessionTimes;
    this.#retryMs = options.retryMs ?? defaultRetryMs;
  }

  /**
   * Makes the first connection; this one is not tried twice.
   * @throws DeltahopError DELTAHOP_E_LINK, DELTAHOP_E_DENIED, DELTAHOP_E_UNSUPPORTED, DELTAHOP_E_BUSY, DELTAHOP_E_CANCELLED.
   */
  static async connect(options: TransferClientOptions): Promise<TransferClient> {
    const client = new TransferClient(options);
    client.#connection = await client.#connect(options.signal);
    return client;
  }

  /** Bytes that crossed the socket so far, over all connections of this client. */
  get counters(): Counters {
    const { bytesSent, bytesReceived } = this.#connection?.counters ?? { bytesSent: 0, bytesReceived: 0 };
    return { bytesSent: this.#past.bytesSent + bytesSent, bytesReceived: this.#past.bytesReceived + bytesReceived };
  }

  /**
   * Makes the slot's tree equal to the one at `treePath` (absolute). Goes on by itself on a new connection when one
   * breaks, with the client's patience unless `retryMs` gives this transfer another.
   * @throws DeltahopError DELTAHOP_E_LINK or DELTAHOP_E_WORKER when patience is at its end, DELTAHOP_E_CANCELLED, or what
   * either engine says. What arrived is kept: calling send again goes on from there.
   */
  async send(
    slot: string,
    treePath: string,
    options: SendOptions & { durable?: boolean; retryMs?: number } = {},
  ): Promise<TransferReport> {
    const { signal, onProgress, durable, retryMs, ...sendOptions } = options;
    return await this.#run(
      { slot, direction: 'send', treePath, durable: durable ?? false, sendOptions },
      signal,
      onProgress,
      retryMs,
    );
  }

  /** Makes the tree at `treePath` (absolute) equal to the slot's. Otherwise like {@link send}. */
  async receive(slot: string, treePath: string, options: ReceiveOptions = {}): Promise<TransferReport> {
    const { signal, onProgress, durable } = options;
    return await this.#run(
      { slot, direction: 'receive', treePath, durable: durable ?? false, sendOptions: {} },
      signal,
      onProgress,
    );
  }

  /** Ends the connection and its worker; a transfer under way ends with DELTAHOP_E_CANCELLED. Never rejects. */
  async close(): Promise<void> {
    this.#closed = true;
    const connection = this.#connection;
    if (connection === null) return;
    await connection.worker.end();
  }

  async #run(
    request: {
      slot: string;
      direction: Direction;
      treePath: string;
      durable: boolean;
      sendOptions: Omit<SendOptions, 'signal' | 'onProgress'>;
    },
    signal: AbortSignal | undefined,
    onProgress: ((progress: Progress) => void) | undefined,
    retryMs: number = this.#retryMs,
  ): Promise<TransferReport> {
    if (this.#busy) throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', 'this client is in a transfer already');
    if (!isAbsolute(request.treePath)) {
      throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${request.treePath} is not an absolute path`);
    }
    this.#busy = true;
    const startedAt = performance.now();
    let reconnects = 0;
    const troubles: string[] = [];
    let troubleSince: number | null = null;
    let deaths = 0;
    let pauseMs = firstPauseMs;
    try {
      for (;;) {
        this.#refuseIfOver(signal);
        const before = this.counters;
        try {
          // One that broke while nothing was under way counts as well.
          if (this.#connection?.ended != null) this.#forget();
          if (this.#connection === null) {
            reconnects += 1;
            this.#connection = await this.#connect(signal);
          }
          const report = await this.#transfer(this.#connection, request, signal, onProgress);
          const notes = [...report.notes, ...troubles];
          return { ...report, notes, ...this.#bytesSinceReport(), ms: performance.now() - startedAt, reconnects };
        } catch (error) {
          const reason = asDeltahopError(error);
          this.#refuseIfOver(signal);
          if (!isWorthAnotherTry(reason)) throw reason;
          this.#forget();
          if (troubles.length < maxTroubles) troubles.push(`connected anew, for ${reason.message}`);
          const now = performance.now();
          const { bytesSent, bytesReceived } = this.counters;
          const moved = bytesSent - before.bytesSent + bytesReceived - before.bytesReceived;
          if (troubleSince === null || moved > progressBytes) {
            troubleSince = now;
            pauseMs = firstPauseMs;
          }
          deaths = reason.code === 'DELTAHOP_E_WORKER' ? deaths + 1 : 0;
          if (now + pauseMs - troubleSince > retryMs || deaths >= maxWorkerDeaths) throw reason;
          await sleep(pauseMs, undefined, signal === undefined ? {} : { signal }).catch(() => {});
          pauseMs = Math.min(pauseMs * 2, longestPauseMs);
        }
      }
    } finally {
      this.#busy = false;
    }
  }

  #refuseIfOver(signal: AbortSignal | undefined): void {
    if (signal?.aborted || this.#closed) throw new DeltahopError('DELTAHOP_E_CANCELLED', 'the transfer was cancelled');
  }

  #bytesSinceReport(): Counters {
    const now = this.counters;
    const since = {
      bytesSent: now.bytesSent - this.#reported.bytesSent,
      bytesReceived: now.bytesReceived - this.#reported.bytesReceived,
    };
    this.#reported = now;
    return since;
  }

  /** The counters of a connection that is over join the past; its worker is ended for good. */
  #forget(): void {
    if (this.#connection === null) return;
    this.#past = this.counters;
    this.#connection.worker.kill();
    this.#connection = null;
  }

  async #connect(signal: AbortSignal | undefined): Promise<Connection> {
    const { pool, host, port, ticket } = this.#options;
    const connectMs = this.#options.connectMs ?? defaultConnectMs;
    const worker = await pool.take();
    const connection: Connection = {
      worker,
      counters: { bytesSent: 0, bytesReceived: 0 },
      listener: null,
      ended: null,
    };
    const onAbort = () => worker.kill();
    try {
      await new Promise<void>((resolve, reject) => {
        worker.attach((event) => {
          if ('counters' in event && event.counters.bytesSent >= connection.counters.bytesSent) {
            connection.counters = event.counters;
          }
          if (event.type === 'connected') resolve();
          if (event.type === 'ended') {
            connection.ended = endReason(event.error);
            reject(connection.ended);
          }
          connection.listener?.(event);
        });
        if (signal?.aborted || this.#closed) onAbort();
        signal?.addEventListener('abort', onAbort, { once: true });
        worker.tell({ type: 'connect', host, port, ticket, connectMs, times: { ...this.#times } });
      });
    } catch (error) {
      worker.kill();
      this.#past = {
        bytesSent: this.#past.bytesSent + connection.counters.bytesSent,
        bytesReceived: this.#past.bytesReceived + connection.counters.bytesReceived,
      };
      this.#refuseIfOver(signal);
      throw error;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
    return connection;
  }

  #transfer(
    connection: Connection,
    request: Omit<Extract<Command, { type: 'transfer' }>, 'type' | 'sendOptions'> & {
      sendOptions: Omit<SendOptions, 'signal' | 'onProgress'>;
    },
    signal: AbortSignal | undefined,
    onProgress: ((progress: Progress) => void) | undefined,
  ): Promise<OperationReport> {
    const { worker } = connection;
    return new Promise((resolve, reject) => {
      let abortTimer: NodeJS.Timeout | undefined;
      const settle = (finish: () => void) => {
        clearTimeout(abortTimer);
        signal?.removeEventListener('abort', onAbort);
        connection.listener = null;
        finish();
      };
      const onAbort = () => {
        worker.tell({ type: 'cancel' });
        abortTimer = setTimeout(() => worker.kill(), this.#times.abortMs + abortGraceMs);
      };
      connection.listener = (event) => {
        if (event.type === 'progress') onProgress?.(event.progress);
        else if (event.type === 'completed') settle(() => resolve(event.report));
        else if (event.type === 'failed') {
          const error = fromErrorRecord(event.error);
          // Its last word is still under way: the next transfer must not go into a connection that is over.
          if (!event.usable) connection.ended = error;
          settle(() => reject(error));
        } else if (event.type === 'ended') settle(() => reject(endReason(event.error)));
      };
      if (connection.ended !== null) {
        const { ended } = connection;
        settle(() => reject(ended));
        return;
      }
      signal?.addEventListener('abort', onAbort, { once: true });
      const { excludeXattrs, common, ...rest } = request.sendOptions;
      worker.tell({
        type: 'transfer',
        ...request,
        sendOptions: {
          ...rest,
          ...(excludeXattrs === undefined ? {} : { excludeXattrs: [...excludeXattrs] }),
          ...(common === undefined ? {} : { common: [...common] }),
        },
      });
    });
  }
}

function endReason(error: Parameters<typeof fromErrorRecord>[0] | null): DeltahopError {
  return error === null ? new DeltahopError('DELTAHOP_E_LINK', 'the connection was closed') : fromErrorRecord(error);
}

/** What a new connection can mend. */
function isWorthAnotherTry(error: DeltahopError): boolean {
  return (
    isDeltahopError(error, 'DELTAHOP_E_LINK') ||
    isDeltahopError(error, 'DELTAHOP_E_WORKER') ||
    isDeltahopError(error, 'DELTAHOP_E_BUSY')
  );
}
