/**
 * `deltahop serve`: offers directories by name over TCP. A worker process for each connection parses what a stranger sends;
 * this one accepts, counts and hands over.
 */
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { DeltahopError } from '../errors.js';
import { handOver, readHead } from '../transport/tcp.js';
import { syncPreamble } from '../wire/messages.js';
import type { Direction } from './session.js';
import { syncTimes } from './sync.js';
import { peerName, refuse } from './transfer-server.js';
import { type Counters, fromErrorRecord, type SyncModule } from './worker-messages.js';
import { type TransferWorker, WorkerPool } from './worker-pool.js';

/** What the owner of a server hears of its connections. */
export type ServeEvent =
  /** `wants`: the client's direction. */
  | { type: 'opened'; peer: string; module: string; path: string; wants: Direction }
  | ({ type: 'ended'; peer: string; error: DeltahopError | null } & Counters);

/** What to serve, and where. */
export interface ServeOptions {
  host: string;
  /** 0 takes a free one. */
  port: number;
  modules: readonly SyncModule[];
  /** Where to keep what clients want remembered, for each tree at most once its size; nothing is kept when absent. */
  memoryPath?: string;
  /** Connections at once; 8 when absent. Further ones are told that the server is busy. */
  maxConnections?: number;
  /** Must not throw. */
  onEvent?: (event: ServeEvent) => void;
}

const defaultMaxConnections = 8;
/** Connections that have not said yet what they are; each costs a socket. */
const maxStrangers = 64;

/** A running server. Close it before the process ends. */
export class SyncServer {
  readonly #options: ServeOptions;
  readonly #maxConnections: number;
  readonly #pool: WorkerPool;
  readonly #server: Server;
  readonly #strangers = new Set<Socket>();
  readonly #workers = new Set<TransferWorker>();
  #starting = 0;
  #closed = false;

  private constructor(options: ServeOptions) {
    this.#options = options;
    this.#maxConnections = options.maxConnections ?? defaultMaxConnections;
    // One more than may serve: the spare, so that no client waits for a process to start.
    this.#pool = new WorkerPool({ maxWorkers: this.#maxConnections + 1 });
    this.#server = createServer({ pauseOnConnect: true }, (socket) => void this.#accept(socket));
  }

  /**
   * Listens. Whether plain TCP may be used with this address is the caller's decision.
   * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT if the address cannot be had.
   */
  static async start(options: ServeOptions): Promise<SyncServer> {
    const server = new SyncServer(options);
    server.#server.listen(options.port, options.host);
    try {
      await once(server.#server, 'listening');
    } catch (cause) {
      await server.#pool.close();
      const reason = (cause as NodeJS.ErrnoException).code ?? (cause as Error).message;
      throw new DeltahopError(
        'DELTAHOP_E_INVALID_ARGUMENT',
        `cannot listen on ${options.host} port ${options.port}: ${reason}`,
        { cause },
      );
    }
    return server;
  }

  /** The port that it listens on. */
  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : this.#options.port;
  }

  /** Ids of the worker processes that live now. */
  get workerPids(): readonly number[] {
    return this.#pool.pids;
  }

  /** Ends all connections. What had arrived of a cut transfer is kept for the next one. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const socket of this.#strangers) socket.destroy();
    this.#server.close();
    await this.#pool.close();
  }

  async #accept(socket: Socket): Promise<void> {
    // From here to the hand-over nobody else would catch a reset, and it would end the server.
    socket.on('error', () => {});
    const peer = peerName(socket);
    try {
      const head = await this.#readPreamble(socket);
      const worker = await this.#takeWorker();
      if (this.#closed || socket.destroyed) {
        worker.kill();
        socket.destroy();
        return;
      }
      worker.attach((event) => {
        if (event.type === 'syncOpened') {
          const { module, path, wants } = event;
          this.#options.onEvent?.({ type: 'opened', peer, module, path, wants });
        } else if (event.type === 'ended') {
          const error = event.error === null ? null : fromErrorRecord(event.error);
          this.#options.onEvent?.({ type: 'ended', peer, error, ...event.counters });
        }
      });
      this.#workers.add(worker);
      void worker.exited.then(() => this.#workers.delete(worker));
      handOver(socket, (rest) => {
        worker.tell(
          {
            type: 'serveSync',
            peer,
            headBytes: syncPreamble.length,
            headBase64: Buffer.concat([head, rest]).toString('base64'),
            times: syncTimes,
            modules: [...this.#options.modules],
            memoryPath: this.#options.memoryPath ?? null,
          },
          socket,
        );
      });
    } catch (error) {
      // Port scanners and clients of something else: nothing was asked, so nothing is answered.
      if (error instanceof DeltahopError && error.code === 'DELTAHOP_E_BUSY') refuse(socket, error);
      else socket.destroy();
    }
  }

  async #readPreamble(socket: Socket): Promise<Buffer> {
    const [oldest] = this.#strangers;
    if (this.#strangers.size >= maxStrangers) oldest?.destroy();
    this.#strangers.add(socket);
    try {
      const head = await readHead(socket, syncPreamble.length, { deadlineMs: syncTimes.handshakeMs });
      if (head.subarray(0, syncPreamble.length).equals(syncPreamble)) return head.subarray(syncPreamble.length);
      throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'this is no sync connection');
    } finally {
      this.#strangers.delete(socket);
    }
  }

  async #takeWorker(): Promise<TransferWorker> {
    const live = this.#workers.size + this.#starting;
    if (live >= this.#maxConnections)
      throw new DeltahopError('DELTAHOP_E_BUSY', `${live} connections are open already`);
    this.#starting += 1;
    try {
      return await this.#pool.take();
    } finally {
      this.#starting -= 1;
    }
  }
}
