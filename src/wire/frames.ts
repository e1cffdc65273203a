/**
 * Framing of a data connection: `u32le payloadBytes, u8 type, payload` (PROTOCOL.md, section 2). Pure: bytes in, frames out.
 * Lengths come from a peer that may be hostile, so this reader is the only one that looks at them.
 */
import { DeltahopError } from '../errors.js';

/** Bytes in front of every payload. */
export const frameHeaderBytes = 5;
/** The largest payload of a control frame, in bytes. */
export const maxControlPayloadBytes = 64 * 1024;
/** The largest payload of a data frame, in bytes. */
export const maxDataPayloadBytes = 1024 * 1024;

/** The types of frames; the numbers are the wire's. */
export const frameTypes = {
  hello: 1,
  helloReply: 2,
  refused: 3,
  begin: 4,
  ready: 5,
  done: 6,
  bye: 7,
  ping: 8,
  pong: 9,
  open: 10,
  opened: 11,
  changes: 12,
  report: 13,
  data: 15,
} as const;

/** A frame type's name. */
export type FrameName = keyof typeof frameTypes;
/** The name of a frame whose payload is a message, not bytes of the engine. */
export type ControlName = Exclude<FrameName, 'data'>;

const namesByType: ReadonlyMap<number, FrameName> = new Map(
  (Object.keys(frameTypes) as FrameName[]).map((name) => [frameTypes[name], name]),
);

/** A whole control frame, or the next piece of a data frame's payload (data is never gathered, only passed on). */
export interface FrameEvent {
  name: FrameName;
  payload: Uint8Array;
}

/** The header of a frame. */
export function frameHeader(name: FrameName, payloadBytes: number): Buffer {
  const max = name === 'data' ? maxDataPayloadBytes : maxControlPayloadBytes;
  if (payloadBytes < 1 || payloadBytes > max) {
    throw new DeltahopError('DELTAHOP_E_LIMIT', `a ${name} frame of ${payloadBytes} bytes (1 to ${max} are allowed)`);
  }
  const header = Buffer.allocUnsafe(frameHeaderBytes);
  header.writeUInt32LE(payloadBytes, 0);
  header.writeUInt8(frameTypes[name], 4);
  return header;
}

/** Reads frames from bytes that arrive split anywhere. Holds at most one control frame in memory. */
export class FrameReader {
  readonly #header = Buffer.alloc(frameHeaderBytes);
  #headerBytes = 0;
  #name: FrameName | null = null;
  #remaining = 0;
  #gathered: Buffer | null = null;
  #gatheredBytes = 0;

  /**
   * The frames that `chunk` completes, in order. Payloads of data frames are views of `chunk`.
   * @throws DeltahopError DELTAHOP_E_PROTOCOL for an unknown type, DELTAHOP_E_LIMIT for a length out of bounds. The
   * connection cannot be used any further then.
   */
  *read(chunk: Uint8Array): Generator<FrameEvent, void, undefined> {
    let at = 0;
    while (at < chunk.length) {
      if (this.#name === null) {
        const take = Math.min(frameHeaderBytes - this.#headerBytes, chunk.length - at);
        this.#header.set(chunk.subarray(at, at + take), this.#headerBytes);
        this.#headerBytes += take;
        at += take;
        if (this.#headerBytes === frameHeaderBytes) this.#startFrame();
        continue;
      }
      const take = Math.min(this.#remaining, chunk.length - at);
      const piece = chunk.subarray(at, at + take);
      const name = this.#name;
      at += take;
      this.#remaining -= take;
      const ended = this.#remaining === 0;
      if (ended) this.#name = null;
      if (name === 'data') {
        yield { name, payload: piece };
      } else {
        const payload = this.#gather(piece, ended);
        if (payload !== null) yield { name, payload };
      }
    }
  }

  /** Whether bytes of an unfinished frame were read. */
  get midFrame(): boolean {
    return this.#name !== null || this.#headerBytes > 0;
  }

  #startFrame(): void {
    const payloadBytes = this.#header.readUInt32LE(0);
    const type = this.#header.readUInt8(4);
    const name = namesByType.get(type);
    if (name === undefined) throw new DeltahopError('DELTAHOP_E_PROTOCOL', `frame of unknown type ${type}`);
    const max = name === 'data' ? maxDataPayloadBytes : maxControlPayloadBytes;
    if (payloadBytes < 1 || payloadBytes > max) {
      throw new DeltahopError('DELTAHOP_E_LIMIT', `a ${name} frame of ${payloadBytes} bytes (1 to ${max} are allowed)`);
    }
    this.#headerBytes = 0;
    this.#name = name;
    this.#remaining = payloadBytes;
  }

  /** Whole control payloads are passed on as they are; split ones are gathered as they come, never allocated ahead. */
  #gather(piece: Uint8Array, ended: boolean): Uint8Array | null {
    if (this.#gathered === null) {
      if (ended) return piece;
      this.#gathered = Buffer.alloc(Math.max(1024, piece.length));
      this.#gatheredBytes = 0;
    }
    const needed = this.#gatheredBytes + piece.length;
    if (needed > this.#gathered.length) {
      // A peer that announces 64 KiB and sends nothing must not cost 64 KiB.
      const larger = Buffer.alloc(Math.min(maxControlPayloadBytes, Math.max(needed, this.#gathered.length * 2)));
      larger.set(this.#gathered.subarray(0, this.#gatheredBytes));
      this.#gathered = larger;
    }
    this.#gathered.set(piece, this.#gatheredBytes);
    this.#gatheredBytes = needed;
    if (!ended) return null;
    const payload = this.#gathered.subarray(0, needed);
    this.#gathered = null;
    return payload;
  }
}
