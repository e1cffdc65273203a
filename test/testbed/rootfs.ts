import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from './command.js';

/** Directories of real Debian trees, built once and shared by every run: read them, never write into them. */
export interface RootFileSystems {
  /** A minimal Debian. */
  base: string;
  /** The same tree with redis-server installed: a full tree, to be imported against `base`. */
  appRedis: string;
}

/** Builds the guests' root file systems, or finds those built before (half a minute the first time). */
export async function rootFileSystems(): Promise<RootFileSystems> {
  // dist/test/testbed/rootfs.js: the script is in the sources.
  const script = fileURLToPath(new URL('../../../test/setup/make-rootfs.sh', import.meta.url));
  const { stdout } = await run(['bash', script], { timeoutMs: 600_000 });
  const directory = stdout.trim();
  return { base: join(directory, 'base'), appRedis: join(directory, 'app-redis') };
}
