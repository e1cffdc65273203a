/** What a machine has changed on its disk: a qcow2 file without a parent of its own; its driver puts it upon the app layer. */
import { type FileHandle, lstat, mkdir, open, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DeltahopError } from '../../errors.js';
import { mustRun } from '../command.js';

const limitMs = 30_000;
/** As far as version 3's fields go. */
const headerBytes = 104;
/** Incompatible features (QEMU's docs/interop/qcow2.txt) that mean no harm: dirty, extended L2 entries. */
const harmless = 1n | (1n << 4n);

/** Makes an empty one as long as the app layer's disk, unless there is one. */
export async function makeInstanceImage(path: string, appContent: string): Promise<void> {
  if ((await lstat(path).catch(() => null)) !== null) return;
  const { size } = await stat(join(appContent, 'disk'));
  await mkdir(dirname(path), { recursive: true });
  // 32 parts of 4 KiB in a cluster: what a guest writes is all that is kept, and nothing of the layers is copied beside it.
  const options = 'extended_l2=on,cluster_size=128k';
  await mustRun(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, path, `${size}`], {
    limitMs,
    code: 'DELTAHOP_E_WORKLOAD',
  });
}

/**
 * Whether an image that a peer has sent may be opened: QEMU would follow an external data file that it names, and a link in
 * its place, to any file of this node.
 * @throws DeltahopError DELTAHOP_E_CORRUPT
 */
export async function checkInstanceImage(path: string): Promise<void> {
  const wrong = (what: string) =>
    new DeltahopError('DELTAHOP_E_CORRUPT', `${path} is no disk that can be used: ${what}`);
  if (!(await lstat(path)).isFile()) throw wrong('it is not a file');
  const header = Buffer.alloc(headerBytes);
  const file: FileHandle = await open(path, 'r');
  try {
    await file.read(header, 0, headerBytes, 0);
  } finally {
    await file.close();
  }
  if (header.readUInt32BE(0) !== 0x514649fb || header.readUInt32BE(4) !== 3) throw wrong('it is not qcow2, version 3');
  if (header.readBigUInt64BE(8) !== 0n) throw wrong('it names a parent of its own');
  if (header.readUInt32BE(32) !== 0) throw wrong('it is encrypted');
  const features = header.readBigUInt64BE(72);
  if ((features & ~harmless) !== 0n) throw wrong(`it has features ${features}, and data elsewhere may be among them`);
}
