/** A glance at a tree's contents: enough to tell how far they can be compressed. */
import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable, Writable } from 'node:stream';
import type { Engine } from '../engine/engine.js';

/** Entries that are looked at, at most; a tree of more is judged by these. */
const maxEntries = 50_000;
const pieces = 64;
const pieceBytes = 32 * 1024;

/** Pieces of the files beneath a directory, each byte of them as likely as any other. Never rejects. */
export async function sampleOfTree(path: string): Promise<Buffer> {
  const files = await filesBeneath(path);
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  const step = Math.max(pieceBytes, Math.floor(total / pieces));
  const taken: Buffer[] = [];
  let next = Math.floor(step / 2);
  let passed = 0;
  for (const file of files) {
    for (; next < passed + file.bytes; next += step) taken.push(await pieceOf(file.path, next - passed));
    passed += file.bytes;
  }
  return Buffer.concat(taken);
}

/**
 * The share of a sample that is left once the engine has compressed it.
 * @returns between 0 and 1; 1 for an empty sample, of which nothing is known.
 */
export async function compressedShare(engine: Engine, sample: Uint8Array): Promise<number> {
  if (sample.length === 0) return 1;
  const signature = new Collector();
  await engine.signature(Readable.from([]), signature);
  const { statistics } = await engine.delta(Readable.from([signature.bytes]), Readable.from([sample]), new Collector());
  return Math.min(1, (statistics['literalEncodedBytes'] ?? sample.length) / sample.length);
}

async function filesBeneath(root: string): Promise<{ path: string; bytes: number }[]> {
  const files: { path: string; bytes: number }[] = [];
  let left = maxEntries;
  const visit = async (directory: string): Promise<void> => {
    for (const entry of await readdir(directory, { withFileTypes: true }).catch(() => [])) {
      if (left-- <= 0) return;
      const path = join(directory, entry.name);
      if (entry.isDirectory()) await visit(path);
      if (!entry.isFile()) continue;
      const status = await stat(path).catch(() => null);
      if (status !== null) files.push({ path, bytes: status.size });
    }
  };
  await visit(root);
  return files;
}

async function pieceOf(path: string, offset: number): Promise<Buffer> {
  const file = await open(path, 'r').catch(() => null);
  if (file === null) return Buffer.alloc(0);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(pieceBytes), 0, pieceBytes, offset);
    return buffer.subarray(0, bytesRead);
  } catch {
    return Buffer.alloc(0);
  } finally {
    await file.close();
  }
}

class Collector extends Writable {
  readonly #chunks: Buffer[] = [];

  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#chunks.push(chunk);
    done();
  }
}
