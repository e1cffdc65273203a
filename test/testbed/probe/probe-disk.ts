import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../command.js';
import type { GuestImages } from '../guest.js';

/** What the disk of a probe that runs in a virtual machine is made of. */
export interface ProbeDiskParts {
  images: GuestImages;
  /** The probe's program, and its arguments. */
  program: string;
  args: readonly string[];
  /** Lays out what it expects to find, in a root directory. */
  layOut(root: string): Promise<void>;
}

/** Makes the raw image of a disk that boots the test's guest and runs a probe in it, in `directory`. @returns its path. */
export async function makeProbeDisk(directory: string, parts: ProbeDiskParts): Promise<string> {
  const disk = join(directory, 'probe-disk');
  const root = join(directory, 'probe-disk.root');
  await run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', parts.images.base, disk]);
  await mkdir(root);
  await run(['mount', '-o', 'loop', disk, root]);
  try {
    await parts.layOut(root);
    await mkdir(join(root, 'opt/probe'), { recursive: true });
    await copyFile(parts.program, join(root, 'opt/probe/probe'));
    const command = ['/opt/probe/probe', ...parts.args].join(' ');
    await writeFile(join(root, 'etc/guest/probe'), `#!/bin/sh\nexec ${command}\n`, { mode: 0o755 });
  } finally {
    await run(['umount', root]);
    await rm(root, { recursive: true });
  }
  return disk;
}
