/** Plain TCP: connections with deadlines, and the care that a socket needs before another process may have it. */
import { connect, type Socket } from 'node:net';
import { DeltahopError } from '../errors.js';
import type { TransportStream } from './stream.js';

const keepAliveDelayMs = 5000;

/**
 * A connected socket as a stream.
 * @param head bytes that were read from it before; they are counted and come first.
 */
export function tcpStream(socket: Socket, peer: string, head: Buffer = Buffer.alloc(0)): TransportStream {
  // Many small messages wait for an answer each: Nagle's algorithm would add a round trip to every one.
  socket.setNoDelay(true);
  socket.setKeepAlive(true, keepAliveDelayMs);
  if (head.length > 0) socket.unshift(head);
  return {
    duplex: socket,
    peer,
    get bytesSent() {
      return socket.bytesWritten;
    },
    get bytesReceived() {
      return socket.bytesRead + head.length;
    },
  };
}

/** Where to connect to, and for how long to try. */
export interface ConnectOptions {
  host: string;
  port: number;
  deadlineMs: number;
  signal?: AbortSignal | undefined;
}

/**
 * Connects over TCP.
 * @throws DeltahopError DELTAHOP_E_LINK (refused, unreachable or no answer in time), DELTAHOP_E_CANCELLED.
 */
export function connectTcp({ host, port, deadlineMs, signal }: ConnectOptions): Promise<TransportStream> {
  const peer = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(new DeltahopError('DELTAHOP_E_CANCELLED', `connecting to ${peer} was cancelled`));
      return;
    }
    const socket = connect({ host, port });
    const settle = (finish: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      socket.removeListener('error', onError);
      socket.removeListener('connect', onConnect);
      finish();
    };
    const fail = (error: DeltahopError) =>
      settle(() => {
        socket.on('error', () => {});
        socket.destroy();
        reject(error);
      });
    const onAbort = () => fail(new DeltahopError('DELTAHOP_E_CANCELLED', `connecting to ${peer} was cancelled`));
    const onError = (cause: NodeJS.ErrnoException) =>
      fail(
        new DeltahopError('DELTAHOP_E_LINK', `cannot connect to ${peer}: ${cause.code ?? cause.message}`, { cause }),
      );
    const onConnect = () => settle(() => resolve(tcpStream(socket, peer)));
    const timer = setTimeout(
      () => fail(new DeltahopError('DELTAHOP_E_LINK', `cannot connect to ${peer}: no answer in ${deadlineMs} ms`)),
      deadlineMs,
    );
    signal?.addEventListener('abort', onAbort, { once: true });
    socket.once('error', onError);
    socket.once('connect', onConnect);
  });
}

/**
 * The first bytes of an accepted connection: at least `byteCount`, and all that came with them. The socket is left paused;
 * give the bytes back with `socket.unshift` or pass them on with it.
 * @param head bytes that were read before.
 * @throws DeltahopError DELTAHOP_E_LINK (it ended or broke), DELTAHOP_E_TIMEOUT, DELTAHOP_E_CANCELLED. The socket is then
 * still the caller's to destroy.
 */
export function readHead(
  socket: Socket,
  byteCount: number,
  options: { deadlineMs: number; head?: Buffer; signal?: AbortSignal },
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = options.head === undefined ? [] : [options.head];
    let gathered = options.head?.length ?? 0;
    const settle = (finish: () => void) => {
      clearTimeout(timer);
      options.signal?.removeEventListener('abort', onAbort);
      socket.removeListener('readable', onReadable);
      socket.removeListener('end', onEnd);
      socket.removeListener('close', onEnd);
      finish();
    };
    const onReadable = () => {
      for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) {
        chunks.push(chunk);
        gathered += chunk.length;
      }
      if (gathered >= byteCount) settle(() => resolve(Buffer.concat(chunks)));
    };
    const onEnd = () =>
      settle(() => reject(new DeltahopError('DELTAHOP_E_LINK', `connection ended after ${gathered} bytes`)));
    const onError = () => {}; // 'close' follows
    const onAbort = () => settle(() => reject(new DeltahopError('DELTAHOP_E_CANCELLED', 'reading was cancelled')));
    const timer = setTimeout(
      () =>
        settle(() =>
          reject(
            new DeltahopError('DELTAHOP_E_TIMEOUT', `${gathered} of ${byteCount} bytes in ${options.deadlineMs} ms`),
          ),
        ),
      options.deadlineMs,
    );
    // Stays: between here and its next owner nobody else would catch a reset, and it would end the process.
    socket.on('error', onError);
    if (options.signal?.aborted) {
      onAbort();
      return;
    }
    options.signal?.addEventListener('abort', onAbort, { once: true });
    socket.on('readable', onReadable);
    socket.on('end', onEnd);
    socket.on('close', onEnd);
    if (socket.destroyed || socket.readableEnded) onEnd();
    else onReadable();
  });
}

/** What Node keeps in an accepted socket and does not declare. */
interface SocketInternals {
  _handle?: { readStop?: () => number } | null;
  server?: unknown;
}

/**
 * Hands a socket over to another process: stops reading (pausing alone leaves the event loop reading, and what it reads after
 * the hand-over would be lost), calls `send` with what was read so far, and closes what remains of the socket here.
 * @param send must call `child.send` with the socket, synchronously.
 * @throws DeltahopError DELTAHOP_E_LINK if the connection has ended.
 */
export function handOver(socket: Socket, send: (head: Buffer) => void): void {
  const chunks: Buffer[] = [];
  for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) chunks.push(chunk);
  const internals = socket as unknown as SocketInternals;
  // read() starts the handle again, so the stop comes last; nothing can arrive before this turn of the loop is over.
  if (typeof internals._handle?.readStop !== 'function') {
    throw new DeltahopError('DELTAHOP_E_LINK', 'the connection has ended');
  }
  internals._handle.readStop();
  // Else the listening server would count the child's connections as its own, and its close() would wait for them.
  internals.server = null;
  send(Buffer.concat(chunks));
  socket.destroy();
}
