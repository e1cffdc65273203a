/** Corpora of Debian packages: real source trees, root file systems and disks. */
import { fileURLToPath } from 'node:url';
import { run } from '../../test/testbed/command.js';
import type { Corpus } from './corpus.js';

const hourMs = 3_600_000;

/** A script beside this file's source; dist/bench/corpus/debian.js is three below. */
export function script(name: string): string {
  return fileURLToPath(new URL(`../../../bench/corpus/${name}`, import.meta.url));
}

/** `oldest`, `newest`, and `renamed`: the newest with a directory of another name. */
export const linuxSource: Corpus = {
  name: 'linux-source',
  version: 1,
  make: async (path) => {
    await run(['bash', script('linux-source.sh'), path], { timeoutMs: hourMs });
  },
};

/** `base`, `upgraded` and `opencv`. */
export const rootFileSystem: Corpus = {
  name: 'rootfs',
  version: 1,
  make: async (path) => {
    await run(['bash', script('rootfs.sh'), path], { timeoutMs: hourMs });
  },
};

/** `raw-old`, `raw-new`, `qcow2-old` and `qcow2-new`, each with a file `disk`. */
export const disk: Corpus = {
  name: 'disk',
  version: 1,
  make: async (path, from) => {
    await run(['bash', script('disk.sh'), await from(rootFileSystem), path], { timeoutMs: hourMs });
  },
};
