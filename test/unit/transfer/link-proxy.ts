/** A TCP relay on loopback that can fall silent (no FIN, as a cut cable does), break, and mend. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** One relay; close it when done. */
export class LinkProxy {
  readonly #server: Server;
  readonly #targetPort: number;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  /** Bytes that reached the far side, from client to server and back. */
  forwardBytes = 0;
  backwardBytes = 0;
  connections = 0;
  readonly #silenced = new Set<Socket>();
  #refuse = false;
  #bytesPerSecond: number | null = null;

  private constructor(server: Server, targetPort: number) {
    this.#server = server;
    this.#targetPort = targetPort;
  }

  static async start(targetPort: number): Promise<LinkProxy> {
    const server = createServer({ allowHalfOpen: true });
    const proxy = new LinkProxy(server, targetPort);
    server.on('connection', (socket) => proxy.#relay(socket));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Limits the rate of every connection made from now on, client to server and back. */
  limit(bytesPerSecond: number | null): void {
    this.#bytesPerSecond = bytesPerSecond;
  }

  /** Nothing passes any more on the connections that are open; neither side is told. New ones pass. */
  silence(): void {
    for (const pair of this.#pairs) for (const socket of pair) this.#silenced.add(socket);
  }

  /** New connections are closed at once. */
  refuse(refuse: boolean): void {
    this.#refuse = refuse;
  }

  /** Resets every connection. */
  cut(): void {
    for (const pair of this.#pairs) for (const socket of pair) socket.resetAndDestroy();
  }

  async close(): Promise<void> {
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #relay(client: Socket): void {
    if (this.#refuse) {
      client.destroy();
      return;
    }
    this.connections += 1;
    const server = connect({ host: '127.0.0.1', port: this.#targetPort, allowHalfOpen: true });
    const pair = [client, server] as const;
    this.#pairs.add(pair);
    this.#pipe(client, server, (count) => {
      this.forwardBytes += count;
    });
    this.#pipe(server, client, (count) => {
      this.backwardBytes += count;
    });
    for (const socket of pair) {
      socket.on('error', () => {});
      socket.on('close', () => {
        if (!this.#silenced.has(socket)) for (const other of pair) other.destroy();
        this.#pairs.delete(pair);
      });
    }
  }

  #pipe(from: Socket, to: Socket, count: (bytes: number) => void): void {
    const rate = this.#bytesPerSecond;
    from.on('data', (chunk: Buffer) => {
      if (this.#silenced.has(from)) return;
      count(chunk.length);
      const open = to.write(chunk);
      if (rate === null) {
        if (!open) {
          from.pause();
          to.once('drain', () => from.resume());
        }
      } else {
        from.pause();
        setTimeout(() => from.resume(), (chunk.length / rate) * 1000);
      }
    });
    from.on('end', () => {
      if (!this.#silenced.has(from)) to.end();
    });
  }
}
