/** The agent's two ears: the unix socket of its own machine's user, and the TCP port of its peers. */
import { chmod, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { DeltahopError } from '../errors.js';
import { systemCode } from '../layers/durable-file.js';
import { readHead } from '../transport/tcp.js';
import { preamble } from '../wire/messages.js';
import { type Address, formatAddress } from './peers.js';
import type { Router } from './router.js';

/** A connection must say what it is by then. */
const firstBytesLimitMs = 5_000;
const headersLimitMs = 10_000;
const requestLimitMs = 30_000;
/** Longer than any phase's silence is worth a new connection. */
const keepAliveMs = 600_000;
const peerConnectionLimit = 256;
/** The longest path that fits into a sockaddr_un, without its final NUL. */
const socketPathLimitBytes = 107;

/** Takes over a data connection; `head` is what was read from it already, the preamble included. */
export type DataConnectionHandler = (socket: Socket, head: Buffer) => void;

/** A listening HTTP server and how to end it. */
export interface Listener {
  readonly address: Address | string;
  close(): Promise<void>;
}

/**
 * Serves `router` on a unix socket that only the agent's user may open. A file in its place is removed: the caller holds
 * the state directory's lock, so nobody listens there.
 */
export async function listenLocally(path: string, router: Router): Promise<Listener> {
  if (Buffer.byteLength(path) > socketPathLimitBytes) {
    throw new DeltahopError(
      'DELTAHOP_E_INVALID_ARGUMENT',
      `${path} is too long for a unix socket (${socketPathLimitBytes} bytes at the most); use a shorter state directory`,
    );
  }
  const server = httpServer(router);
  await rm(path, { force: true });
  // The socket must not be open to others even for the moment between its making and a chmod.
  const umask = process.umask(0o177);
  let listening: Promise<void>;
  try {
    listening = started(server, path, () => server.listen(path));
  } finally {
    process.umask(umask);
  }
  await listening;
  await chmod(path, 0o600);
  return { address: path, close: () => closed(server) };
}

/** Serves `router` to peers on TCP, and gives data connections on the same port to `onData`. */
export async function listenToPeers(
  address: Address,
  router: Router,
  onData: DataConnectionHandler,
): Promise<Listener> {
  const server = httpServer(router);
  server.maxConnections = peerConnectionLimit;
  const serveHttp = server.listeners('connection').map((listener) => listener as (socket: Socket) => void);
  server.removeAllListeners('connection');
  const undecided = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    undecided.add(socket);
    void tellApart(socket).finally(() => undecided.delete(socket));
  });

  const tellApart = async (socket: Socket): Promise<void> => {
    let head: Buffer;
    try {
      head = await readHead(socket, preamble.length, { deadlineMs: firstBytesLimitMs });
    } catch {
      // Port scanners and impatient peers: nothing was asked, so nothing is answered.
      socket.destroy();
      return;
    }
    if (head.subarray(0, preamble.length).equals(preamble)) {
      onData(socket, head);
    } else {
      socket.unshift(head);
      for (const serve of serveHttp) serve.call(server, socket);
    }
  };

  await started(server, formatAddress(address), () => server.listen(address.port, address.host));
  const bound = server.address();
  const port = typeof bound === 'object' && bound !== null ? bound.port : address.port;
  return {
    address: { host: address.host, port },
    close: async () => {
      const end = closed(server);
      for (const socket of undecided) socket.destroy();
      await end;
    },
  };
}

function httpServer(router: Router): Server {
  const server = createServer({ noDelay: true }, (request, response) => void router.answer(request, response));
  server.headersTimeout = headersLimitMs;
  server.requestTimeout = requestLimitMs;
  server.keepAliveTimeout = keepAliveMs;
  return server;
}

async function started(server: Server, where: string, listen: () => void): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      const why: Record<string, string> = {
        EADDRINUSE: 'something listens there already',
        EADDRNOTAVAIL: 'this machine does not have that address',
        EACCES: 'permission denied',
      };
      const code = systemCode(error);
      const reason = (code === null ? undefined : why[code]) ?? error.message;
      reject(
        new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `cannot listen on ${where}: ${reason}`, { cause: error }),
      );
    });
    server.once('listening', resolve);
    listen();
  });
}

async function closed(server: Server): Promise<void> {
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
