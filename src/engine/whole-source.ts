/** A source that is needed whole, in memory. */
import { createReadStream } from 'node:fs';
import { DeltahopError } from '../errors.js';
import { fileError } from './file-error.js';
import type { OperationOptions, Source } from './operations.js';

/**
 * All bytes of a source, at most `limitBytes`. A stream is destroyed if anything fails.
 * @throws DeltahopError DELTAHOP_E_LIMIT above the limit, DELTAHOP_E_CANCELLED, or what the file or stream fails with.
 */
export async function readWhole(
  source: Source,
  limitBytes: number,
  what: string,
  { signal }: OperationOptions,
): Promise<Buffer> {
  const stream = typeof source === 'string' ? createReadStream(source) : source;
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  const stop = (): void => {
    stream.destroy(new DeltahopError('DELTAHOP_E_CANCELLED', 'the operation was cancelled', { cause: signal?.reason }));
  };
  if (signal?.aborted) stop();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    for await (const piece of stream) {
      if (!(piece instanceof Uint8Array)) {
        throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${what}: a stream of bytes is needed`);
      }
      bytes += piece.length;
      if (bytes > limitBytes) throw new DeltahopError('DELTAHOP_E_LIMIT', `${what} is longer than ${limitBytes} bytes`);
      pieces.push(piece);
    }
    return Buffer.concat(pieces, bytes);
  } catch (error) {
    throw fileError(error, `cannot read ${what}`);
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}
