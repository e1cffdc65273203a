/** A bound on how fast a stream sends. */
import { Duplex } from 'node:stream';

/** Pieces of so much time: short enough that heartbeats between them are not late. */
const pieceMs = 100;
/** What may go out at once after a pause, so that a late timer does not lower the rate. */
const burstMs = 250;

/**
 * `inner` with what is written to it held to `bytesPerSecond` (at least 1024), measured over any second; what is read from
 * it comes as it comes. Destroying either destroys both.
 */
export function throttled(inner: Duplex, bytesPerSecond: number): Duplex {
  return new Throttled(inner, bytesPerSecond);
}

class Throttled extends Duplex {
  readonly #inner: Duplex;
  readonly #bytesPerMs: number;
  readonly #pieceBytes: number;
  #allowedBytes = 0;
  #countedAtMs = performance.now();
  #timer: NodeJS.Timeout | undefined;

  constructor(inner: Duplex, bytesPerSecond: number) {
    super({ readableHighWaterMark: inner.readableHighWaterMark, writableHighWaterMark: 64 * 1024 });
    this.#inner = inner;
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#pieceBytes = Math.max(256, Math.floor(this.#bytesPerMs * pieceMs));
    inner.on('data', (chunk: Buffer) => {
      if (!this.push(chunk)) inner.pause();
    });
    inner.on('end', () => this.push(null));
    inner.on('error', (error) => this.destroy(error));
    inner.on('close', () => this.destroy());
  }

  override _read(): void {
    this.#inner.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    const now = performance.now();
    const earned = (now - this.#countedAtMs) * this.#bytesPerMs;
    this.#allowedBytes = Math.min(this.#allowedBytes + earned, burstMs * this.#bytesPerMs);
    this.#countedAtMs = now;
    const piece = chunk.subarray(0, this.#pieceBytes);
    const waitMs = (piece.length - this.#allowedBytes) / this.#bytesPerMs;
    if (waitMs > 0) {
      this.#timer = setTimeout(() => this._write(chunk, _encoding, done), Math.ceil(waitMs));
      return;
    }
    this.#allowedBytes -= piece.length;
    this.#inner.write(piece, (error) => {
      if (error) done(error);
      else if (piece.length === chunk.length) done();
      else this._write(chunk.subarray(piece.length), _encoding, done);
    });
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#inner.end(() => done());
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearTimeout(this.#timer);
    this.#inner.destroy();
    done(error);
  }
}
