/** Images of disks, read and made by qemu-img. */
import { open } from 'node:fs/promises';
import { mustRun } from '../command.js';

/** Bound of reading a whole image; a large one on a slow disk takes minutes. */
const flattenLimitMs = 3_600_000;

/** `QFI\xfb` (QEMU's docs/interop/qcow2.txt). */
const qcow2Magic = Buffer.from('514649fb', 'hex');

/**
 * Writes what an image holds, with all that it is built upon, into a raw sparse file. It is qcow2 if it begins as such a
 * file does, else raw: no other format is guessed.
 *
 * @throws DeltahopError DELTAHOP_E_TOOL_MISSING, DELTAHOP_E_INVALID_ARGUMENT with what qemu-img said.
 */
export async function flattenImage(imagePath: string, rawPath: string, signal?: AbortSignal): Promise<void> {
  const format = (await beginning(imagePath, qcow2Magic.length)).equals(qcow2Magic) ? 'qcow2' : 'raw';
  const argv = ['qemu-img', 'convert', '-f', format, '-O', 'raw', '-S', '4k', '-t', 'writeback', imagePath, rawPath];
  await mustRun(argv, {
    limitMs: flattenLimitMs,
    code: 'DELTAHOP_E_INVALID_ARGUMENT',
    ...(signal === undefined ? {} : { signal }),
  });
}

async function beginning(path: string, bytes: number): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(bytes), 0, bytes, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
