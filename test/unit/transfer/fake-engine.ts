/**
 * An engine for the faults that the real one cannot be made to show (a crash, a job that never ends), and a plain copier with
 * continuation for what is about the connection only. Copies the file `data` of a tree.
 */
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { access, appendFile, readFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Engine, OperationReport, ReceiveOptions, SendOptions } from '../../../src/engine/engine.js';
import { DeltahopError } from '../../../src/errors.js';

const lengthBytes = 8;

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

/** Reads exact counts from a stream without ending it. */
class ExactReader {
  readonly #stream: Duplex;
  #buffered: Buffer = Buffer.alloc(0);
  readonly #signal: AbortSignal | undefined;
  #failure: Error | null = null;

  constructor(stream: Duplex, signal: AbortSignal | undefined) {
    this.#stream = stream;
    this.#signal = signal;
    stream.on('end', () => this.#fail(new DeltahopError('DELTAHOP_E_TRUNCATED', 'the stream ended')));
    stream.on('error', (error) => this.#fail(error));
    stream.on('close', () => this.#fail(new DeltahopError('DELTAHOP_E_TRUNCATED', 'the stream closed')));
    signal?.addEventListener('abort', () => this.#fail(new DeltahopError('DELTAHOP_E_CANCELLED', 'cancelled')));
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#stream.emit('wake');
  }

  async some(max: number): Promise<Buffer> {
    while (this.#buffered.length === 0) {
      if (this.#signal?.aborted) throw new DeltahopError('DELTAHOP_E_CANCELLED', 'cancelled');
      const chunk: Buffer | null = this.#stream.read();
      if (chunk !== null) {
        this.#buffered = chunk;
        break;
      }
      if (this.#failure !== null) throw this.#failure;
      const wait = new AbortController();
      await Promise.race([
        once(this.#stream, 'readable', { signal: wait.signal }),
        once(this.#stream, 'wake', { signal: wait.signal }),
      ]).catch(() => {});
      wait.abort();
    }
    const taken = this.#buffered.subarray(0, max);
    this.#buffered = this.#buffered.subarray(taken.length);
    return taken;
  }

  async exactly(count: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let missing = count; missing > 0; ) {
      const part = await this.some(missing);
      parts.push(part);
      missing -= part.length;
    }
    return Buffer.concat(parts);
  }
}

function lengthOf(value: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

async function misbehave(treePath: string): Promise<void> {
  if (await exists(join(treePath, 'crash'))) process.kill(process.pid, 'SIGSEGV');
  if (await exists(join(treePath, 'exit'))) process.exit(7);
  if (await exists(join(treePath, 'hang'))) await new Promise(() => setInterval(() => {}, 1000));
  if (await exists(join(treePath, 'full')))
    throw new DeltahopError('DELTAHOP_E_NO_SPACE', `no space left for ${treePath}`);
}

async function put(stream: Duplex, bytes: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
  if (stream.destroyed || signal?.aborted) throw new DeltahopError('DELTAHOP_E_CANCELLED', 'cancelled');
  if (stream.write(bytes)) return;
  await Promise.race([
    once(stream, 'drain'),
    once(stream, 'close'),
    ...(signal === undefined ? [] : [once(signal as unknown as EventTarget, 'abort')]),
  ]);
}

async function send(treePath: string, stream: Duplex, options: SendOptions = {}): Promise<OperationReport> {
  const reader = new ExactReader(stream, options.signal);
  await misbehave(treePath);
  const path = join(treePath, 'data');
  const { size } = await stat(path);
  const offset = Number((await reader.exactly(lengthBytes)).readBigUInt64LE());
  await put(stream, lengthOf(size), options.signal);
  let done = offset;
  const slow = await exists(join(treePath, 'slow'));
  for await (const chunk of createReadStream(path, { start: offset, highWaterMark: 64 * 1024 })) {
    await put(stream, chunk as Buffer, options.signal);
    done += (chunk as Buffer).length;
    options.onProgress?.({ doneBytes: done, totalBytes: size, doneFiles: 0, totalFiles: 1 });
    if (slow) await sleep(20);
  }
  await reader.exactly(1);
  return { statistics: { sentBytes: size - offset }, notes: [] };
}

async function receive(treePath: string, stream: Duplex, options: ReceiveOptions = {}): Promise<OperationReport> {
  const reader = new ExactReader(stream, options.signal);
  await misbehave(treePath);
  const partial = join(treePath, 'data.partial');
  const offset = await stat(partial).then(
    (found) => found.size,
    () => 0,
  );
  await put(stream, lengthOf(offset), options.signal);
  const size = Number((await reader.exactly(lengthBytes)).readBigUInt64LE());
  for (let done = offset; done < size; ) {
    const chunk = await reader.some(size - done);
    await appendFile(partial, chunk);
    done += chunk.length;
    options.onProgress?.({ doneBytes: done, totalBytes: size, doneFiles: 0, totalFiles: 1 });
  }
  if (size === 0) await appendFile(partial, '');
  await rename(partial, join(treePath, 'data'));
  await put(stream, Buffer.from([1]), options.signal);
  return { statistics: { receivedBytes: size - offset, durable: options.durable ? 1 : 0 }, notes: [] };
}

function unused(): never {
  throw new DeltahopError('DELTAHOP_E_UNSUPPORTED', 'this engine only copies');
}

/** See the head of this file. */
export const fakeEngine: Engine = {
  name: 'fake',
  send,
  receive,
  signature: unused,
  delta: unused,
  patch: unused,
  treeDigest: unused,
  lookUp: unused,
  digest: unused,
};

/** The bytes that the copier moved. */
export async function copiedData(treePath: string): Promise<Buffer> {
  return await readFile(join(treePath, 'data'));
}
