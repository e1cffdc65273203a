import { mkdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeltahopError } from '../../errors.js';
import { mustRun } from '../command.js';
import { type Mount, parseMounts } from '../mounts.js';

/** The directories of an overlay. */
export interface Overlay {
  /** Read-only directories, the uppermost first. */
  lower: readonly string[];
  upper: string;
  /** Must be on the same file system as `upper`, and nobody else's. */
  work: string;
  /** Where it is mounted. */
  merged: string;
}

/** Bound of one call of mount or umount. */
const mountLimitMs = 10_000;

/** How long a container's last file may stay open after its last process: the kernel ends namespaces in its own time. */
const unmountPatienceMs = 5000;

/**
 * The mount options of an overlay. The four switched off would each write extended attributes into the upper directory
 * that mean something only on this node, or make an upper directory that another node has rebuilt unusable.
 *
 * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT if a path has a character that separates options.
 */
export function overlayOptions(overlay: Overlay): string {
  for (const path of [...overlay.lower, overlay.upper, overlay.work, overlay.merged]) {
    if (!path.startsWith('/') || /[:,\\"\s]/.test(path)) {
      throw new DeltahopError(
        'DELTAHOP_E_INVALID_ARGUMENT',
        `${JSON.stringify(path)} can not be part of an overlay: it must be absolute, without blanks, colons, commas, quotes and backslashes`,
      );
    }
  }
  const options = [`lowerdir=${overlay.lower.join(':')}`, `upperdir=${overlay.upper}`, `workdir=${overlay.work}`];
  return [...options, 'redirect_dir=off', 'metacopy=off', 'index=off', 'xino=off'].join(',');
}

/**
 * Mounts an overlay, unless just this one is mounted already. Makes `work` and `merged` if need be.
 *
 * @throws DeltahopError DELTAHOP_E_WORKLOAD if the kernel refuses.
 */
export async function mountOverlay(overlay: Overlay): Promise<void> {
  const options = overlayOptions(overlay);
  await mkdir(overlay.work, { recursive: true });
  await mkdir(overlay.merged, { recursive: true });
  const mounts = await mountsAt(overlay.merged);
  const [first] = mounts;
  if (mounts.length === 1 && first?.fileSystem === 'overlay' && sameDirectories(first.options, options)) return;
  if (mounts.length > 0) await unmountOverlay(overlay.merged);
  const argv = ['mount', '-t', 'overlay', 'overlay', '-o', options, overlay.merged];
  await mustRun(argv, { limitMs: mountLimitMs, code: 'DELTAHOP_E_WORKLOAD' });
}

/**
 * Unmounts whatever is mounted at `merged`; nothing is no error.
 *
 * @throws DeltahopError DELTAHOP_E_WORKLOAD if it stays in use.
 */
export async function unmountOverlay(merged: string): Promise<void> {
  const deadline = Date.now() + unmountPatienceMs;
  while ((await mountsAt(merged)).length > 0) {
    try {
      await mustRun(['umount', merged], { limitMs: mountLimitMs, code: 'DELTAHOP_E_WORKLOAD' });
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(20);
    }
  }
}

async function mountsAt(path: string): Promise<Mount[]> {
  return parseMounts(await readFile('/proc/self/mountinfo', 'utf8')).filter((mount) => mount.mountPoint === path);
}

/** Whether two option lists name the same directories; the kernel adds options of its own and may reorder them. */
function sameDirectories(mounted: string, wanted: string): boolean {
  const directories = (options: string) =>
    options
      .split(',')
      .filter((option) => /^(lowerdir|upperdir|workdir)/.test(option))
      // Since Linux 6.8 lowerdir+= is shown once for each directory if it was given so.
      .sort()
      .join(',');
  return directories(mounted) === directories(wanted);
}
