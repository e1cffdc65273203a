/**
 * A framed connection: messages one way and the other, a channel of bytes for one engine job at a time, heartbeats, and one
 * way to fail. Used inside worker processes only, by both sides alike.
 */
import { Duplex } from 'node:stream';
import { DeltahopError } from '../errors.js';
import type { TransportStream } from '../transport/stream.js';
import { type FrameEvent, FrameReader, frameHeader } from '../wire/frames.js';
import {
  decodeMessage,
  encodeMessage,
  fromWireError,
  isControl,
  type Message,
  type MessageOf,
  toWireError,
} from '../wire/messages.js';

/** How soon a dead peer is noticed. */
export interface LinkTimes {
  /** A ping goes out when nothing else did for so long. */
  pingMs: number;
  /** The link is dead when nothing came for so long. */
  silenceMs: number;
}

/** The times of the specification (PROTOCOL.md, section 5). */
export const defaultLinkTimes: LinkTimes = { pingMs: 2500, silenceMs: 10_000 };

/** Messages that may wait unread; an honest peer never has more than three under way. */
const maxWaitingMessages = 16;
/** Larger pieces would only hold up the heartbeats between them. */
const dataPieceBytes = 256 * 1024;
const channelBufferBytes = 1024 * 1024;
/** How long the last words of a link that ends may take to leave. */
const goodbyeMs = 1000;

interface Waiter {
  resolve(message: Message): void;
  reject(error: DeltahopError): void;
}

/** One connection's frames. */
export class Link {
  readonly peer: string;
  /** Resolves, never rejects, once the link has ended: with the reason, or null after close(). */
  readonly ended: Promise<DeltahopError | null>;
  /** Resolves once the carrier is closed, soon after `ended`. */
  readonly closed: Promise<void>;
  /** Round trip of the last ping in milliseconds, null before the first. */
  rttMs: number | null = null;
  /** performance.now() of the last sign that the transfer moves: bytes of the engines, or the peer's progress. */
  lastProgressAt = performance.now();
  /** This side's progress in bytes, told to the peer with every ping. */
  ownProgress = 0;

  readonly #stream: TransportStream;
  #times: LinkTimes;
  readonly #reader = new FrameReader();
  readonly #inbox: Message[] = [];
  readonly #resolveEnded: (error: DeltahopError | null) => void;
  readonly #heartbeat: NodeJS.Timeout;
  #waiter: Waiter | null = null;
  #error: DeltahopError | null = null;
  #closing = false;
  #hasEnded = false;
  #channel: Channel | null = null;
  /** Bytes of the engine that come when no job of ours reads any more are the tail of a transfer that failed here. */
  #discardData = false;
  #maxDataFrameBytes = dataPieceBytes;
  #paused = false;
  #lastReceivedAt = performance.now();
  #lastSentAt = performance.now();
  #lastBeatAt = performance.now();
  #pingId = 0;
  #pingSentAt = new Map<number, number>();
  #peerProgress = 0;

  constructor(stream: TransportStream, times: LinkTimes = defaultLinkTimes) {
    this.#stream = stream;
    this.#times = times;
    this.peer = stream.peer;
    let resolveEnded: (error: DeltahopError | null) => void = () => {};
    this.ended = new Promise((resolve) => {
      resolveEnded = resolve;
    });
    this.#resolveEnded = resolveEnded;
    const { duplex } = stream;
    this.closed = new Promise((resolve) => {
      if (duplex.closed) resolve();
      else duplex.once('close', () => resolve());
    });
    duplex.on('error', (cause: NodeJS.ErrnoException) => {
      this.fail(
        new DeltahopError('DELTAHOP_E_LINK', `connection to ${this.peer} broke: ${cause.code ?? cause.message}`, {
          cause,
        }),
      );
    });
    duplex.on('end', () => this.#onPeerClosed());
    duplex.on('close', () => this.#onPeerClosed());
    duplex.on('data', (chunk: Buffer) => this.#onData(chunk));
    this.#heartbeat = setInterval(() => this.#beat(), Math.min(times.pingMs, times.silenceMs) / 2);
  }

  /** Bytes that the carrier counts so far. */
  get counters(): { bytesSent: number; bytesReceived: number } {
    return { bytesSent: this.#stream.bytesSent, bytesReceived: this.#stream.bytesReceived };
  }

  /** Why the link ended; null while it lives and after a close in good order. */
  get error(): DeltahopError | null {
    return this.#error;
  }

  /** From now on the link is dead when nothing came for so long. */
  limitSilence(silenceMs: number): void {
    this.#times = { ...this.#times, silenceMs };
  }

  /** The largest data frame that the peer takes, as it said in its hello. */
  limitDataFrames(bytes: number): void {
    this.#maxDataFrameBytes = Math.min(dataPieceBytes, bytes);
  }

  /** Sends bytes that are no frame (the prelude). */
  sendRaw(bytes: Uint8Array): void {
    if (this.#hasEnded) return;
    this.#lastSentAt = performance.now();
    this.#stream.duplex.write(bytes);
  }

  /** Sends a message; on a link that has ended it goes nowhere, as every reader of this link hears by `ended`. */
  send(message: Message): void {
    this.sendRaw(encodeMessage(message));
  }

  /**
   * The next message that is not a heartbeat. One reader at a time.
   * @param deadlineMs null: for as long as the link lives.
   * @throws DeltahopError why the link ended, or DELTAHOP_E_TIMEOUT (the link then ends with it).
   */
  next(waitingFor: string, deadlineMs: number | null): Promise<Message> {
    const message = this.#inbox.shift();
    if (message !== undefined) return Promise.resolve(message);
    if (this.#hasEnded) return Promise.reject(this.#error ?? this.#endedError());
    if (this.#waiter !== null) throw new Error('a link has one reader at a time');
    return new Promise((resolve, reject) => {
      const timer =
        deadlineMs === null
          ? undefined
          : setTimeout(() => {
              this.fail(
                new DeltahopError('DELTAHOP_E_TIMEOUT', `${this.peer} sent no ${waitingFor} in ${deadlineMs} ms`),
              );
            }, deadlineMs);
      this.#waiter = {
        resolve: (value) => {
          clearTimeout(timer);
          resolve(value);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
    });
  }

  /**
   * Like next(), for the one type that may come now.
   * @throws DeltahopError also DELTAHOP_E_PROTOCOL for any other type (the link then ends with it).
   */
  async expect<Name extends Message['type']>(name: Name, deadlineMs: number | null): Promise<MessageOf<Name>> {
    const message = await this.next(name, deadlineMs);
    if (message.type === name) return message as MessageOf<Name>;
    const error = new DeltahopError('DELTAHOP_E_PROTOCOL', `${this.peer} sent ${message.type} where ${name} belongs`);
    this.fail(error);
    throw error;
  }

  /** The channel for one engine job: the one that the peer's `begin` has opened, or a new one before ours. */
  openChannel(): Duplex {
    const channel = this.#channel ?? this.#newChannel();
    if (this.#hasEnded) channel.destroy(this.#error ?? this.#endedError());
    return channel;
  }

  /** The peer's data may come in the same breath as its `begin`: the channel is there from that frame on. */
  #newChannel(): Channel {
    this.#discardData = false;
    this.#channel = new Channel({
      wantMore: () => this.#resume(),
      write: (chunks, done) => this.#writeData(chunks, done),
    });
    return this.#channel;
  }

  /**
   * Waits until everything that the engine wrote is on its way.
   * @throws DeltahopError why the link ended.
   */
  async flushChannel(): Promise<void> {
    const channel = this.#channel;
    if (channel === null) return;
    await new Promise<void>((resolve, reject) => {
      channel.once('close', () => reject(this.#error ?? this.#endedError()));
      channel.end(() => resolve());
      if (channel.destroyed) reject(this.#error ?? this.#endedError());
    });
  }

  /** Ends the channel: what the peer still has under way for it is dropped, until its `done`. */
  closeChannel(channel: Duplex): void {
    if (this.#channel === null || this.#channel !== channel) return;
    this.#discardData = !this.#channel.inputEnded;
    this.#channel.destroy();
    this.#channel = null;
    this.#resume();
  }

  /**
   * Ends the link for a reason and tells the peer, unless it is the link itself that failed. The first reason counts; further
   * calls do nothing.
   */
  fail(error: DeltahopError): void {
    this.#fail(error, error.code !== 'DELTAHOP_E_LINK');
  }

  #fail(error: DeltahopError, tellPeer: boolean): void {
    if (this.#hasEnded) return;
    if (tellPeer) this.send({ type: 'refused', ...toWireError(error) });
    this.#error = error;
    this.#end(error);
    const { duplex } = this.#stream;
    if (!tellPeer) {
      duplex.destroy();
      return;
    }
    // Closed with bytes unread, the socket would send a reset, and that would overtake the reason at the peer: so read on
    // (to no purpose) until the peer closes as well.
    duplex.resume();
    duplex.end();
    setTimeout(() => duplex.destroy(), goodbyeMs);
  }

  /** Says goodbye and ends the link in good order. */
  async close(): Promise<void> {
    if (this.#hasEnded) return;
    this.send({ type: 'bye' });
    this.#closing = true;
    const { duplex } = this.#stream;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, goodbyeMs);
      const finish = () => {
        clearTimeout(timer);
        resolve();
      };
      duplex.once('close', finish);
      duplex.end();
    });
    this.#end(null);
    duplex.destroy();
  }

  #end(error: DeltahopError | null): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    clearInterval(this.#heartbeat);
    const reason = error ?? this.#endedError();
    this.#waiter?.reject(reason);
    this.#waiter = null;
    this.#channel?.destroy(reason);
    this.#resolveEnded(error);
  }

  #endedError(): DeltahopError {
    return new DeltahopError('DELTAHOP_E_LINK', `the connection to ${this.peer} was closed`);
  }

  #onPeerClosed(): void {
    if (this.#hasEnded) return;
    if (this.#closing) this.#end(null);
    else this.fail(new DeltahopError('DELTAHOP_E_LINK', `${this.peer} closed the connection`));
  }

  #onData(chunk: Buffer): void {
    if (this.#hasEnded) return;
    this.#lastReceivedAt = performance.now();
    try {
      for (const event of this.#reader.read(chunk)) {
        this.#onFrame(event);
        if (this.#hasEnded) return;
      }
    } catch (error) {
      this.fail(
        error instanceof DeltahopError
          ? new DeltahopError(error.code, `${this.peer} sent ${error.message}`, { cause: error })
          : new DeltahopError('DELTAHOP_E_PROTOCOL', `${this.peer} sent what cannot be read`, { cause: error }),
      );
    }
  }

  #onFrame({ name, payload }: FrameEvent): void {
    if (!isControl(name)) {
      this.#onEngineBytes(payload);
      return;
    }
    const message = decodeMessage(name, payload);
    if (message.type === 'ping') {
      if (message.progress > this.#peerProgress) this.lastProgressAt = performance.now();
      this.#peerProgress = message.progress;
      // A flood of pings must not fill our memory with answers.
      if (!this.#stream.duplex.writableNeedDrain) this.send({ type: 'pong', id: message.id });
      return;
    }
    if (message.type === 'pong') {
      const sentAt = this.#pingSentAt.get(message.id);
      if (sentAt !== undefined) this.rttMs = performance.now() - sentAt;
      this.#pingSentAt.delete(message.id);
      return;
    }
    if (message.type === 'refused') {
      this.#fail(fromWireError(message, this.peer), false);
      return;
    }
    if (message.type === 'done') {
      this.#discardData = false;
      this.#channel?.endInput(message.error === null);
    }
    if (message.type === 'begin') {
      if (this.#channel !== null) throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'begin within a transfer');
      this.#newChannel();
    }
    if (this.#waiter !== null) {
      const waiter = this.#waiter;
      this.#waiter = null;
      waiter.resolve(message);
    } else if (this.#inbox.length < maxWaitingMessages) {
      this.#inbox.push(message);
    } else {
      throw new DeltahopError('DELTAHOP_E_PROTOCOL', `more than ${maxWaitingMessages} messages at once`);
    }
  }

  #onEngineBytes(payload: Uint8Array): void {
    this.lastProgressAt = performance.now();
    if (this.#channel !== null && !this.#channel.inputEnded) {
      if (!this.#channel.push(payload)) this.#pause();
    } else if (!this.#discardData) {
      throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'data outside of a transfer');
    }
  }

  #pause(): void {
    this.#paused = true;
    this.#stream.duplex.pause();
  }

  #resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    // While we do not read, the peer's heartbeats lie unread: its silence starts anew.
    this.#lastReceivedAt = performance.now();
    this.#stream.duplex.resume();
  }

  #writeData(chunks: readonly Uint8Array[], done: (error?: Error) => void): void {
    if (this.#hasEnded) {
      done(this.#error ?? this.#endedError());
      return;
    }
    const { duplex } = this.#stream;
    duplex.cork();
    for (const frame of dataFrames(chunks, this.#maxDataFrameBytes)) {
      duplex.write(frameHeader('data', frame.bytes));
      for (const piece of frame.pieces) duplex.write(piece);
    }
    duplex.uncork();
    this.#lastSentAt = performance.now();
    const accepted = () => {
      this.lastProgressAt = performance.now();
      done();
    };
    if (!duplex.writableNeedDrain) {
      accepted();
      return;
    }
    const onDrain = () => {
      duplex.removeListener('close', onClose);
      accepted();
    };
    const onClose = () => {
      duplex.removeListener('drain', onDrain);
      done(this.#error ?? this.#endedError());
    };
    duplex.once('drain', onDrain);
    duplex.once('close', onClose);
  }

  #beat(): void {
    const now = performance.now();
    const { pingMs, silenceMs } = this.#times;
    // If this process itself stood still (stopped, starved), what the peer sent lies unread: look again before judging.
    const stoodStill = now - this.#lastBeatAt > pingMs;
    this.#lastBeatAt = now;
    if (stoodStill) this.#lastReceivedAt = Math.max(this.#lastReceivedAt, now - silenceMs / 2);
    if (!this.#paused && now - this.#lastReceivedAt > silenceMs) {
      const seconds = Math.round((now - this.#lastReceivedAt) / 100) / 10;
      this.fail(new DeltahopError('DELTAHOP_E_LINK', `nothing came from ${this.peer} for ${seconds} s`));
      return;
    }
    if (now - this.#lastSentAt >= pingMs * 0.9 && !this.#stream.duplex.writableNeedDrain) {
      this.#pingId += 1;
      if (this.#pingSentAt.size > 8) this.#pingSentAt.clear();
      this.#pingSentAt.set(this.#pingId, now);
      this.send({ type: 'ping', id: this.#pingId, progress: this.ownProgress });
    }
  }
}

/** Cuts what the engine wrote into frames, small writes together and large ones apart. */
function* dataFrames(
  chunks: readonly Uint8Array[],
  maxBytes: number,
): Generator<{ bytes: number; pieces: Uint8Array[] }, void, undefined> {
  let pieces: Uint8Array[] = [];
  let bytes = 0;
  for (const chunk of chunks) {
    let at = 0;
    while (at < chunk.length) {
      const piece = chunk.subarray(at, at + maxBytes - bytes);
      pieces.push(piece);
      bytes += piece.length;
      at += piece.length;
      if (bytes === maxBytes) {
        yield { bytes, pieces };
        pieces = [];
        bytes = 0;
      }
    }
  }
  if (bytes > 0) yield { bytes, pieces };
}

/** What an engine job sees of the link: its bytes and nothing else. */
class Channel extends Duplex {
  inputEnded = false;
  readonly #face: { wantMore(): void; write(chunks: readonly Uint8Array[], done: (error?: Error) => void): void };

  constructor(face: { wantMore(): void; write(chunks: readonly Uint8Array[], done: (error?: Error) => void): void }) {
    super({ readableHighWaterMark: channelBufferBytes, writableHighWaterMark: channelBufferBytes, autoDestroy: false });
    this.#face = face;
    // Whoever runs the job hears of the link's end from the link; an engine that has gone must not turn it into a crash.
    this.on('error', () => {});
  }

  /** No more bytes come. The job sees the end only after a good transfer: else it is aborted, with a better reason. */
  endInput(visibly: boolean): void {
    if (this.inputEnded) return;
    this.inputEnded = true;
    if (visibly) this.push(null);
  }

  override _read(): void {
    this.#face.wantMore();
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, done: (error?: Error) => void): void {
    this.#face.write([chunk], done);
  }

  override _writev(chunks: { chunk: Uint8Array }[], done: (error?: Error) => void): void {
    this.#face.write(
      chunks.map(({ chunk }) => chunk),
      done,
    );
  }
}
