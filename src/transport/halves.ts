/** One byte stream made of two halves: the pipes of a child process, or this process' own input and output. */
import { Duplex, type Readable, type Writable } from 'node:stream';
import type { TransportStream } from './stream.js';

/** The halves, and what belongs to their ends. */
export interface Halves {
  input: Readable;
  output: Writable;
  peer: string;
  /** Asked when the input has ended: why, if it should not have; null for an end in good order. */
  endReason?: () => Promise<Error | null>;
  /** Called once when nobody uses the stream any more. */
  release?: () => void;
}

/** Joins two halves; destroying the stream destroys both. */
export function joinHalves(halves: Halves): TransportStream {
  return new JoinedHalves(halves).stream;
}

class JoinedHalves extends Duplex {
  readonly #halves: Halves;
  #bytesSent = 0;
  #bytesReceived = 0;
  #wanted = false;

  constructor(halves: Halves) {
    super({ readableHighWaterMark: 256 * 1024, writableHighWaterMark: 256 * 1024 });
    this.#halves = halves;
    const { input, output } = halves;
    input.on('readable', () => this.#feed());
    input.on('end', () => this.#onEnd());
    input.on('error', (error) => this.destroy(error));
    // A pipe that broke because the other side ended says less than the reason for that end.
    output.on('error', () => this.#onEnd());
  }

  get stream(): TransportStream {
    const joined = this;
    return {
      duplex: this,
      peer: this.#halves.peer,
      get bytesSent() {
        return joined.#bytesSent;
      },
      get bytesReceived() {
        return joined.#bytesReceived;
      },
    };
  }

  override _read(): void {
    this.#wanted = true;
    this.#feed();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#bytesSent += chunk.length;
    this.#halves.output.write(chunk, (error) => done(error ?? null));
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#halves.output.end(() => done());
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const { input, output, release } = this.#halves;
    input.destroy();
    output.on('error', () => {});
    output.destroy();
    release?.();
    done(error);
  }

  #feed(): void {
    while (this.#wanted) {
      const chunk: Buffer | null = this.#halves.input.read();
      if (chunk === null) return;
      this.#bytesReceived += chunk.length;
      this.#wanted = this.push(chunk);
    }
  }

  #onEnd(): void {
    const { endReason } = this.#halves;
    const finish = (reason: Error | null): void => {
      if (this.destroyed || this.readableEnded) return;
      if (reason === null) this.push(null);
      else this.destroy(reason);
    };
    if (endReason === undefined) finish(null);
    else void endReason().then(finish);
  }
}
