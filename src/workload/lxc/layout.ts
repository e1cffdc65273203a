import { createHash } from 'node:crypto';
import { join, resolve } from 'node:path';
import type { Workload } from '../driver.js';

/**
 * Where the LXC driver keeps what it has, beneath `Workload.path`:
 *
 *     upper/              the instance's files: the overlay's upper directory          moves
 *     memory/             the instance's memory: the images of CRIU's last dump        moves
 *     previous-memory/    the images of the dump before, of which the next one is a small change
 *     records/            what is known of upper/ and memory/ as they were last sent or received
 *     work/               the overlay's work directory
 *     merged/             the overlay is mounted here: the container's root
 *     lxc/<id>/config     the container's configuration, written anew for every start and restore
 *     lxc.log             what LXC said at the last start or stop
 *     operation/          the round, freeze or prepare that is under way; gone when it is over (see barrier.ts)
 *
 * memory/ is on the same disk as the rest. tmpfs was tried: for an image of 256 MiB the dump took 170 ms of freeze on
 * ext4 and 205 ms on tmpfs, the restore to the barrier 200 and 250 ms, since neither waits for the disk.
 */
export interface LxcLayout {
  /** The container's name in LXC: unique on this machine, so that its cgroups can be told from a namesake's. */
  readonly id: string;
  /** The end of its network interface on this node. At most 15 characters, the kernel's bound. */
  readonly hostInterface: string;
  readonly upper: string;
  readonly memory: string;
  readonly previousMemory: string;
  readonly records: string;
  readonly work: string;
  readonly merged: string;
  /** What LXC calls lxcpath. */
  readonly lxcPath: string;
  readonly config: string;
  readonly log: string;
  readonly operation: string;
}

/** The layout of a workload. Pure: nothing has to exist. */
export function lxcLayout(workload: Pick<Workload, 'name' | 'path'>): LxcLayout {
  const path = resolve(workload.path);
  const digest = createHash('sha256').update(path).digest('hex');
  const id = `${workload.name}-${digest.slice(0, 8)}`;
  const lxcPath = join(path, 'lxc');
  return {
    id,
    hostInterface: `dh${digest.slice(0, 12)}`,
    upper: join(path, 'upper'),
    memory: join(path, 'memory'),
    previousMemory: join(path, 'previous-memory'),
    records: join(path, 'records'),
    work: join(path, 'work'),
    merged: join(path, 'merged'),
    lxcPath,
    config: join(lxcPath, id, 'config'),
    log: join(path, 'lxc.log'),
    operation: join(path, 'operation'),
  };
}
