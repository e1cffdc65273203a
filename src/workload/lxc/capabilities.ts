import { readFile, statfs } from 'node:fs/promises';
import { isDeltahopError } from '../../errors.js';
import { cgroupVersion, readHierarchies } from '../cgroup-hierarchies.js';
import { runCommand } from '../command.js';
import type { Capability } from '../driver.js';
import { criuRemedy, findCriu, hasNft } from './criu.js';

/** TMPFS_MAGIC (linux/magic.h). */
const tmpfsMagic = 0x01021994;

/** Bound of each of the short commands by which this machine is asked. */
const limitMs = 10_000;

/** What this machine has of what LXC services and their migration need, each tried rather than looked up. */
export async function lxcCapabilities(): Promise<Capability[]> {
  return Promise.all([root(), lxc(), criu(), cgroup(), overlay(), network(), firewall(), locks()]);
}

function good(name: string, detail: string): Capability {
  return { name, ok: true, detail, remedy: null };
}

function bad(name: string, detail: string, remedy: string): Capability {
  return { name, ok: false, detail, remedy };
}

/** What a command says on success; null if it is missing or fails. */
async function ask(...argv: string[]): Promise<string | null> {
  try {
    const { exitCode, stdout } = await runCommand(argv, { limitMs });
    return exitCode === 0 ? stdout.trim() : null;
  } catch (error) {
    if (isDeltahopError(error, 'DELTAHOP_E_TOOL_MISSING') || isDeltahopError(error, 'DELTAHOP_E_TIMEOUT')) return null;
    throw error;
  }
}

async function root(): Promise<Capability> {
  if (process.geteuid?.() === 0) return good('root', 'the agent is root');
  return bad('root', 'the agent is not root', 'start the agent as root: mounts, cgroups and CRIU need it');
}

async function lxc(): Promise<Capability> {
  const [start, checkpoint] = await Promise.all([ask('lxc-start', '--version'), ask('lxc-checkpoint', '--version')]);
  if (start === null || checkpoint === null) {
    const which = start === null ? 'lxc-start' : 'lxc-checkpoint';
    return bad('lxc', `${which} is missing`, 'install LXC 5 or later, e.g. apt-get install lxc');
  }
  const major = Number.parseInt(start, 10);
  if (!(major >= 5)) return bad('lxc', `version ${start}`, 'install LXC 5 or later, e.g. apt-get install lxc');
  return good('lxc', `version ${start}`);
}

async function criu(): Promise<Capability> {
  try {
    const found = await findCriu();
    // CRIU keeps what it has learnt about the kernel in /run/criu.kdat, but only on a tmpfs (criu/kerndat.c).
    const { type } = await statfs('/run');
    const slow = type === tmpfsMagic ? '' : '; /run is not a tmpfs, which makes each downtime 100 ms longer';
    return good('criu', `version ${found.version} (${found.program})${slow}`);
  } catch (error) {
    if (!isDeltahopError(error)) throw error;
    return bad('criu', error.message, criuRemedy);
  }
}

async function cgroup(): Promise<Capability> {
  const hierarchies = await readHierarchies();
  if (hierarchies.length === 0) {
    return bad('cgroup', 'no cgroup tree is mounted', 'mount one at /sys/fs/cgroup, as systemd does');
  }
  return good('cgroup', cgroupVersion(hierarchies));
}

async function overlay(): Promise<Capability> {
  const known = async () => /\boverlay$/m.test(await readFile('/proc/filesystems', 'utf8'));
  if ((await known()) || ((await ask('modprobe', 'overlay')) !== null && (await known()))) {
    return good('overlay', 'the kernel has overlayfs');
  }
  return bad('overlay', 'the kernel has no overlayfs', 'use a kernel with CONFIG_OVERLAY_FS');
}

async function network(): Promise<Capability> {
  const remedy = 'install iproute2 and use a kernel with CONFIG_VETH and CONFIG_BRIDGE';
  if ((await ask('ip', '-V')) === null) return bad('network', 'ip is missing', remedy);
  // In a network namespace of its own, which goes with the command.
  const tries = [
    ['veth', 'peer', 'name', 'dhtry1'],
    ['bridge', ''],
  ];
  for (const [kind = '', ...rest] of tries) {
    const argv = [
      'unshare',
      '--net',
      'ip',
      'link',
      'add',
      'dhtry0',
      'type',
      kind,
      ...rest.filter((word) => word !== ''),
    ];
    if ((await ask(...argv)) === null) return bad('network', `the kernel makes no ${kind} interface`, remedy);
  }
  return good('network', 'veth and bridge interfaces');
}

async function firewall(): Promise<Capability> {
  for (const program of ['iptables-restore', 'ip6tables-restore']) {
    if ((await ask(program, '--version')) === null) {
      return bad('firewall', `${program} is missing`, 'install iptables: CRIU saves and holds connections with it');
    }
  }
  const slow = (await hasNft()) ? ', nft' : '; nft is missing, which makes each downtime 50 ms longer';
  return good('firewall', `iptables-restore and ip6tables-restore${slow}`);
}

async function locks(): Promise<Capability> {
  if ((await ask('perl', '-MFcntl', '-MSocket', '-e', '1')) !== null) return good('perl', 'with Fcntl and Socket');
  return bad(
    'perl',
    'perl with Fcntl and Socket is missing',
    'install perl-base: it sees in time that CRIU was killed',
  );
}
