/** Delta instructions into blocks: native/FORMATS.md section 3. */
import zstd from 'zstd-napi/binding.js';
import { varint } from './bounded-reader.js';

export const deltaMagic = Buffer.from('DHDL');
export const deltaVersion = 1;
export const maxOpsBytes = 32 * 1024;
export const maxLiteralBytes = 256 * 1024;
export const maxBlockBytes = 300 * 1024;
/** Instructions end a block when fewer bytes than the longest one needs are left. */
const longestOpBytes = 20;

/** What an instruction does; the two low bits of its first number. */
export const Op = { literal: 1, zeros: 2, copy: 3 } as const;

/** Gathers instructions and gives a framed block whenever one is full. */
export class DeltaEncoder {
  private ops: Buffer[] = [];
  private opsBytes = 0;
  private literals: Buffer[] = [];
  private literalBytes = 0;
  private copyExpected = 0;
  private pending: { op: number; length: number; offset: number } | null = null;
  private readonly full: Buffer[] = [];
  private readonly compressor = new zstd.CCtx();

  constructor(private readonly zstdLevel: number) {}

  literal(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const taken = Math.min(bytes.length - at, maxLiteralBytes - this.literalBytes);
      if (taken === 0) {
        this.flush();
        continue;
      }
      this.add(Op.literal, taken, 0);
      this.literals.push(Buffer.from(bytes.subarray(at, at + taken)));
      this.literalBytes += taken;
      at += taken;
    }
  }

  zeros(length: number): void {
    this.add(Op.zeros, length, 0);
  }

  copy(offset: number, length: number): void {
    this.add(Op.copy, length, offset);
  }

  /** The blocks that are full, framed as in a delta stream. */
  take(): Buffer[] {
    return this.full.splice(0);
  }

  /** Ends the last block. */
  finish(): void {
    this.flush();
  }

  private add(op: number, length: number, offset: number): void {
    const last = this.pending;
    if (last !== null && last.op === op && (op !== Op.copy || last.offset + last.length === offset)) {
      last.length += length;
      return;
    }
    this.endOp();
    // The encoder's own promise: a block's instructions never outgrow their section.
    if (this.opsBytes + longestOpBytes > maxOpsBytes) this.flush();
    this.pending = { op, length, offset };
  }

  private endOp(): void {
    if (this.pending === null) return;
    const { op, length, offset } = this.pending;
    this.pending = null;
    const parts = [varint(length * 4 + op)];
    if (op === Op.copy) {
      const jump = offset - this.copyExpected;
      parts.push(varint(jump >= 0 ? jump * 2 : -jump * 2 - 1));
      this.copyExpected = offset + length;
    }
    for (const part of parts) {
      this.ops.push(part);
      this.opsBytes += part.length;
    }
  }

  private flush(): void {
    this.endOp();
    if (this.opsBytes === 0) return;
    const block = Buffer.concat([...this.section(this.ops), ...this.section(this.literals)]);
    this.full.push(varint(block.length), block);
    this.ops = [];
    this.literals = [];
    this.opsBytes = 0;
    this.literalBytes = 0;
    this.copyExpected = 0;
  }

  private section(parts: Buffer[]): Buffer[] {
    const raw = Buffer.concat(parts);
    const room = Buffer.allocUnsafe(raw.length + 1024);
    const length = raw.length > 0 ? this.compressor.compress(room, raw, this.zstdLevel) : 0;
    if (raw.length === 0 || length >= raw.length) return [Buffer.of(0), varint(raw.length), raw];
    return [Buffer.of(1), varint(raw.length), varint(length), room.subarray(0, length)];
  }
}
