/** Two agents' worth of transfers on loopback: a server and clients, each with a worker pool, with a relay between them. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { lstat, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defaultSessionTimes, type SessionTimes } from '../../../src/transfer/session.js';
import { TransferClient, type TransferClientOptions } from '../../../src/transfer/transfer-client.js';
import { type TicketEvent, TransferServer } from '../../../src/transfer/transfer-server.js';
import { WorkerPool } from '../../../src/transfer/worker-pool.js';
import { readHead } from '../../../src/transport/tcp.js';
import { LinkProxy } from './link-proxy.js';

/** The specification's times, an order of magnitude shorter. */
export const shortTimes: SessionTimes = {
  ...defaultSessionTimes,
  pingMs: 300,
  silenceMs: 2000,
  handshakeMs: 2000,
  noProgressMs: 4000,
  abortMs: 800,
};

/** For what waits for no silence: a worker that starts on a busy machine is not to be taken for dead. */
export const patientTimes: SessionTimes = { ...shortTimes, silenceMs: 60_000, handshakeMs: 10_000 };

const scratchPrefix = 'deltahop-transfer-';

/** Removes what killed runs of these tests have left: their directories bear the process' id. */
async function clearLeftovers(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const [, pid] = new RegExp(`^${scratchPrefix}([0-9]+)-`).exec(name) ?? [];
    if (pid === undefined || (await isAlive(Number(pid)))) continue;
    await rm(join(tmpdir(), name), { recursive: true, force: true });
  }
}

/** See the head of this file; dispose of it when done. */
export class Loopback {
  readonly serverPool: WorkerPool;
  readonly clientPool: WorkerPool;
  readonly server: TransferServer;
  readonly proxy: LinkProxy;
  readonly root: string;
  readonly events: TicketEvent[] = [];
  readonly #listener: Server;
  readonly #clients: TransferClient[] = [];
  readonly #accepted = new Set<Socket>();

  private constructor(
    pools: { server: WorkerPool; client: WorkerPool },
    server: TransferServer,
    listener: Server,
    proxy: LinkProxy,
    root: string,
  ) {
    this.serverPool = pools.server;
    this.clientPool = pools.client;
    this.server = server;
    this.#listener = listener;
    this.proxy = proxy;
    this.root = root;
    listener.on('connection', (socket) => {
      this.#accepted.add(socket);
      socket.on('close', () => this.#accepted.delete(socket));
      // As the agent does: four bytes tell what the connection is.
      readHead(socket, 4, { deadlineMs: shortTimes.handshakeMs }).then(
        (head) => server.accept(socket, head),
        () => socket.destroy(),
      );
    });
  }

  static async start(options: { entry?: URL; times?: SessionTimes; maxConnections?: number } = {}): Promise<Loopback> {
    const entry = options.entry === undefined ? {} : { entry: options.entry };
    const pools = { server: new WorkerPool(entry), client: new WorkerPool(entry) };
    const server = new TransferServer({
      pool: pools.server,
      times: options.times ?? shortTimes,
      ...(options.maxConnections === undefined ? {} : { maxConnections: options.maxConnections }),
    });
    const listener = createServer();
    listener.listen(0, '127.0.0.1');
    await once(listener, 'listening');
    const proxy = await LinkProxy.start((listener.address() as AddressInfo).port);
    await clearLeftovers();
    const root = await mkdtemp(join(tmpdir(), `${scratchPrefix}${process.pid}-`));
    return new Loopback(pools, server, listener, proxy, root);
  }

  /** The server's own port, past the relay. */
  get port(): number {
    return (this.#listener.address() as AddressInfo).port;
  }

  /** A directory of this test; with `data` of so many random bytes if asked for. */
  async directory(name: string, dataBytes?: number): Promise<string> {
    const path = join(this.root, name);
    await mkdir(path, { recursive: true });
    if (dataBytes !== undefined) await writeFile(join(path, 'data'), randomBytes(dataBytes));
    return path;
  }

  /** A ticket for one slot whose events are gathered. */
  ticket(slots: Record<string, string>, access: 'write' | 'read' = 'write'): string {
    return this.server.issueTicket({
      slots: Object.fromEntries(Object.entries(slots).map(([name, path]) => [name, { path, durable: false, access }])),
      onEvent: (event) => this.events.push(event),
    });
  }

  async client(ticket: string, options: Partial<TransferClientOptions> = {}): Promise<TransferClient> {
    const client = await TransferClient.connect({
      pool: this.clientPool,
      host: '127.0.0.1',
      port: this.proxy.port,
      ticket,
      times: shortTimes,
      ...options,
    });
    this.#clients.push(client);
    return client;
  }

  async dispose(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.close()));
    await this.server.close();
    await Promise.all([this.serverPool.close(), this.clientPool.close()]);
    for (const socket of this.#accepted) socket.destroy();
    await this.proxy.close();
    this.#listener.close();
    await once(this.#listener, 'close');
    await rm(this.root, { recursive: true, force: true });
  }
}

/** Runs `body` with a loopback and takes it down, whatever happens. */
export async function withLoopback(
  options: Parameters<typeof Loopback.start>[0],
  body: (world: Loopback) => Promise<void>,
): Promise<void> {
  const world = await Loopback.start(options);
  try {
    await body(world);
  } finally {
    await world.dispose();
  }
}

/** Whether both directories hold the same `data`. */
export async function sameData(left: string, right: string): Promise<boolean> {
  return (await readFile(join(left, 'data'))).equals(await readFile(join(right, 'data')));
}

/** Waits for a condition, at most `limitMs`. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  limitMs = 10_000,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not in ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Whether a process lives (a zombie does not). */
export async function isAlive(pid: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  return status !== '' && !/\) [ZX] /.test(status);
}

/** Sizes and change times of everything below a directory: equal as long as nothing writes there. */
export async function footprint(path: string): Promise<string> {
  const names = await readdir(path, { recursive: true });
  const lines = names.sort().map(async (name) => {
    const { size, mtimeMs } = await lstat(join(path, name));
    return `${name} ${size} ${mtimeMs}`;
  });
  return (await Promise.all(lines)).join('\n');
}
