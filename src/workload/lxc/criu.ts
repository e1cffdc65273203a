import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { release } from 'node:os';
import { delimiter, join } from 'node:path';
import { DeltahopError, isDeltahopError } from '../../errors.js';
import { runCommand } from '../command.js';
import { compareVersions } from '../version.js';
import { networkKey } from './container-network.js';

/** Where the project's own installer puts CRIU. */
const privateProgram = '/opt/deltahop/criu/bin/criu';

/** How to get it, for people. */
export const criuRemedy =
  'install CRIU 4.2 or later, e.g. by test/setup/install-criu.sh, or name the program in DELTAHOP_CRIU';

/** The CRIU that this machine's containers are saved with. */
export interface Criu {
  /** Absolute path of the program. */
  program: string;
  /** E.g. `4.2.1`. */
  version: string;
  /** How it holds a stopped container's connections. */
  networkLock: 'nftables' | 'iptables';
  /** Whether the kernel tells it which pages have been written to, without which it has no pre-dump. */
  tracksMemory: boolean;
}

/**
 * Finds CRIU: what DELTAHOP_CRIU names (and nothing else, if it is set), else the private prefix, else PATH.
 *
 * @throws DeltahopError DELTAHOP_E_TOOL_MISSING: none, one that does not run, or one too old for this kernel.
 */
export async function findCriu(): Promise<Criu> {
  const program = await findProgram();
  const { mtimeMs, size } = await stat(program);
  // Asking costs two runs of it, and every restore is in somebody's downtime.
  const key = `${program} ${mtimeMs} ${size}`;
  const known = asked.get(key);
  if (known !== undefined) return known;
  const criu = await askCriu(program);
  asked.clear();
  asked.set(key, criu);
  return criu;
}

/** What {@link findCriu} has learnt, by the program's identity. */
const asked = new Map<string, Criu>();

async function askCriu(program: string): Promise<Criu> {
  const { exitCode, stdout, stderr } = await runCommand([program, '--version'], { limitMs: 10_000 });
  const version = /^Version:\s*(\S+)/m.exec(stdout)?.[1];
  if (exitCode !== 0 || version === undefined) {
    throw missing(`${program} does not run: ${stderr.trim() || stdout.trim() || `exit code ${exitCode}`}`);
  }
  const why = tooOld(version, release());
  if (why !== null) throw missing(`${program} ${why}`);
  // With nftables the lock is taken in CRIU's own process; iptables costs four more programs, 50 ms of each hand-off. But
  // only nft can take away the lock of a CRIU that was killed.
  const has = (feature: string) => succeeds([program, 'check', '--feature', feature]);
  const [locks, nft, tracksMemory] = await Promise.all([
    has('network_lock_nftables'),
    hasNft(),
    has('mem_dirty_track'),
  ]);
  return { program, version, networkLock: locks && nft ? 'nftables' : 'iptables', tracksMemory };
}

/** Whether there is the program that shows and changes the tables of nftables. */
export function hasNft(): Promise<boolean> {
  return succeeds(['nft', '--version']);
}

async function succeeds(argv: readonly string[]): Promise<boolean> {
  try {
    return (await runCommand(argv, { limitMs: 10_000 })).exitCode === 0;
  } catch (error) {
    if (isDeltahopError(error, 'DELTAHOP_E_TOOL_MISSING')) return false;
    throw error;
  }
}

async function findProgram(): Promise<string> {
  const named = process.env['DELTAHOP_CRIU'];
  if (named !== undefined && named !== '') {
    if (await isProgram(named)) return named;
    throw missing(`DELTAHOP_CRIU names ${named}, which is not a program`);
  }
  const directories = (process.env['PATH'] ?? '').split(delimiter).filter((directory) => directory.startsWith('/'));
  for (const candidate of [privateProgram, ...directories.map((directory) => join(directory, 'criu'))]) {
    if (await isProgram(candidate)) return candidate;
  }
  throw missing('CRIU is not installed');
}

function missing(what: string): DeltahopError {
  return new DeltahopError('DELTAHOP_E_TOOL_MISSING', `${what}; ${criuRemedy}`);
}

async function isProgram(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * Why a CRIU cannot be used on a kernel; null if it can. Linux 6.16 changed SO_PASSCRED of inet sockets, which only
 * CRIU 4.2 knows: an older one can dump no container that has one open. 4.0 is the least that is tested elsewhere.
 *
 * @param kernel as uname(2) says it, e.g. `6.18.44-amd64`.
 */
export function tooOld(version: string, kernel: string): string | null {
  const least = compareVersions(kernel, '6.16') >= 0 ? '4.2' : '4.0';
  if (compareVersions(version, least) >= 0) return null;
  return `is version ${version}; Linux ${kernel} needs ${least} or later`;
}

/** One dump of a container. */
export interface Dump {
  /** A freeze ends the container unless the script's verdict is another; after a round it runs on, as after a pre-dump. */
  mode: 'freeze' | 'round' | 'pre-dump';
  /** Its first process, as this node sees it. */
  initPid: number;
  /** Its directory in the freezer's hierarchy. */
  freezer: string;
  /** An empty directory. */
  images: string;
  actionScript: string;
}

/**
 * argv of a dump, with the options that lxc-checkpoint has for it and its restore expects. Not by lxc-checkpoint, which only
 * asks the container's monitor where the freezer is: LXC before 7.1 does not know that of one that it has restored, where
 * there is cgroup v2 alone, so such a container could never move again.
 */
export function dumpCommand({ mode, initPid, freezer, images, actionScript }: Dump): string[] {
  const argv = ['criu', mode === 'pre-dump' ? mode : 'dump', '--tcp-established', '--file-locks', '--link-remap'];
  argv.push(
    '--manage-cgroups=full',
    '--ext-mount-map',
    'auto',
    '--enable-external-sharing',
    '--enable-external-masters',
  );
  argv.push('--enable-fs', 'hugetlbfs', '--enable-fs', 'tracefs', '-D', images, '-o', `${images}/dump.log`);
  argv.push('--action-script', actionScript, '-t', String(initPid), '--skip-in-flight', '--freeze-cgroup', freezer);
  argv.push('--force-irmap');
  return mode === 'round' ? [...argv, '--leave-running'] : argv;
}

/** What one operation asks of CRIU beside what all do. */
export interface CriuOptions {
  /** Of a restore: see Cgroup.unifiedRoot. */
  cgroupRoot: string | null;
  /** Of a dump: see cgroupYard. */
  cgroupYard: string | null;
  /** Connections are saved, or come back, as closed ones. */
  closeTcp: boolean;
  /** Of a dump: inode of a network namespace that is none of CRIU's business (see container-network); null: it is. */
  externalNetwork: number | null;
}

/** Options for CRIU_CONFIG_FILE, which CRIU reads beside the command line that LXC makes (criu(8)). */
export function criuConfig(criu: Criu, { cgroupRoot, cgroupYard, closeTcp, externalNetwork }: CriuOptions): string {
  // Deleted files that are still open travel in the image up to this size; CRIU's own bound, 1 MiB, is less than many
  // a temporary file.
  const root = cgroupRoot === null ? '' : `cgroup-root ${cgroupRoot}\n`;
  const yard = cgroupYard === null ? '' : `cgroup-yard ${cgroupYard}\n`;
  const tcp = closeTcp ? 'tcp-close\n' : '';
  const network = externalNetwork === null ? '' : `external net[${externalNetwork}]:${networkKey}\n`;
  return `network-lock ${criu.networkLock}\nghost-limit 256M\n${root}${yard}${tcp}${network}`;
}

/** Errors that CRIU logs though nothing is wrong, or that only say that an earlier one happened. */
const noise = [
  /rlimit: Can't setup RLIMIT_NOFILE/,
  /Address already assigned/,
  /Dumping FAILED/,
  /Restoring FAILED/,
  /cgroupd: recv req error/,
  /One of more action scripts failed/,
  /exited, status=/,
  /Can't dump task|Dump (?:fdinfo|files) \(pid/,
];

/** What well-known errors mean, and the way out. */
const meanings: readonly [RegExp, string][] = [
  [/inotify|fsnotify|fanotify|dump that handle|irmap/i, 'a process watches files (inotify), which CRIU can not carry'],
  [/io_uring/i, 'a process uses io_uring, which CRIU can not carry: switch it off in that program'],
  [/has bad (size|build-ID|mode)/i, 'a file of the container is not the one that was open when it was saved'],
  [/No space left on device|ENOSPC/i, 'the disk is full'],
  [/Can't get 1:16 opt/i, 'this CRIU is too old for this kernel: 4.2 or later is needed'],
  [/(ip6?tables|nft)\S*.*(failed|not found|No such)/i, 'the firewall tools that hold connections are missing'],
  [/Can't bind inet socket|Cannot assign requested address/i, 'the address that it is bound to is not on this node'],
  [/Unexpected EOF on|empty-image|Image of wrong format|magic/i, 'the saved image is incomplete'],
  [/cpu.*(incompatib|not supported)|CPU.*feature/i, 'this node’s processor lacks features of the other’s'],
  [/Unable to freeze cgroup|Timeout reached/i, 'its processes did not stop in time'],
];

/**
 * The cause of a failure from CRIU's dump.log or restore.log: its first real error, with what it means where that is
 * known. Null if the log names none.
 */
export function causeInCriuLog(log: string): string | null {
  const errors: string[] = [];
  for (const line of log.split('\n')) {
    const message = /^(?:\([\d.]+\)\s+)?(?:pie: )?(?:\s*\d+: )?Error\s+\([^)]*\):\s*(.*)$/.exec(line)?.[1];
    if (message !== undefined && !noise.some((pattern) => pattern.test(message))) errors.push(message.trim());
  }
  const [first] = errors;
  if (first === undefined) return null;
  for (const error of errors) {
    const known = meanings.find(([pattern]) => pattern.test(error));
    if (known !== undefined) return `${known[1]} (CRIU: ${error.slice(0, 300)})`;
  }
  return `CRIU: ${first.slice(0, 300)}`;
}

/** Lines of LXC's log that follow from a failure instead of explaining it. */
const lxcNoise = [
  /Failed to receive (response|file descriptors)/,
  /criu process exited/,
  /restore process died/,
  /Restoring .* failed/,
  /Checkpointing .* failed/,
  /The container failed to start/,
  /To get more details/,
  /Additional information can be obtained/,
  /Received container state "(ABORTING|STOPPED)"/,
  /Failed to spawn container/,
  /Expected to receive sync|sync_wait|Sync/,
  /No such file or directory - Failed to (open|stat) .*cgroup/,
];

/**
 * The cause of a failure from a log that LXC wrote with `-o FILE -l INFO`: its first error that explains something.
 * Null if the log names none.
 */
export function causeInLxcLog(log: string): string | null {
  for (const line of log.split('\n')) {
    const [, place = '', message] =
      /^\S+\s+\S+\s+\S+\s+(?:ERROR|FATAL|ALERT)\s+\S+\s+-\s+(\S+)\s+-\s+(.*)$/.exec(line) ?? [];
    if (message !== undefined && !lxcNoise.some((pattern) => pattern.test(message) || pattern.test(place))) {
      return `LXC: ${message.trim().slice(0, 300)}`;
    }
  }
  return null;
}
