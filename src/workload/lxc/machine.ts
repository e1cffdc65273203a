/** What two nodes must have in common for a container to be restored at one that was saved at the other. */
import { createSocket } from 'node:dgram';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { arch, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeltahopError } from '../../errors.js';
import { runCommand } from '../command.js';
import type { Capability, MachineFacts } from '../driver.js';
import { cgroupVersion, readHierarchies } from './cgroup.js';
import type { LxcNetwork } from './config.js';
import { type Criu, compareVersions, findCriu } from './criu.js';

const limitMs = 10_000;

/** How long a neighbour may take to say that it has an address. */
const neighbourMs = 400;

/** The facts of this machine, for {@link differences} at another. What cannot be found out is left out. */
export async function machineFacts(): Promise<MachineFacts> {
  const facts: Record<string, string> = {
    architecture: arch(),
    kernel: release(),
    cgroup: cgroupVersion(await readHierarchies()),
    lsm: await securityModule(),
  };
  try {
    const criu = await findCriu();
    facts['criu'] = criu.version;
    const cpu = await once(`${criu.program} ${criu.version}`, () => dumpProcessor(criu));
    if (cpu !== null) facts['cpu'] = cpu;
  } catch (error) {
    // Its absence is a finding of the capabilities.
    if (!isDeltahopError(error)) throw error;
  }
  return facts;
}

/** What stands against restoring here what was saved on a machine with these facts, by name; and what does not. */
export async function differences(source: MachineFacts): Promise<Capability[]> {
  const here = await machineFacts();
  const found: Capability[] = [];
  const note = (name: string, ok: boolean, detail: string, remedy: string): void => {
    found.push({ name, ok, detail, remedy: ok ? null : remedy });
  };
  const same = (name: string, what: string, remedy: string): void => {
    const [theirs = 'unknown', ours = 'unknown'] = [source[name], here[name]];
    note(name, theirs === ours, `${what} ${theirs} there, ${ours} here`, remedy);
  };
  same('architecture', 'processor', 'move it to a node of the same architecture');
  same('cgroup', 'control groups', 'boot both nodes with the same cgroup version (systemd.unified_cgroup_hierarchy)');
  note('kernel', true, `Linux ${source['kernel'] ?? 'unknown'} there, ${here['kernel']} here`, '');
  const [theirs, ours] = [source['criu'], here['criu']];
  if (theirs !== undefined && ours !== undefined) {
    const ok = compareVersions(ours, theirs) >= 0;
    note('criu version', ok, `${theirs} there, ${ours} here`, `install CRIU ${theirs} or later here`);
  }
  // A profile that this kernel does not know ends every restore; one that the other does not have is no matter.
  const lsm = source['lsm'] ?? 'none';
  note('lsm', lsm === 'none' || lsm === here['lsm'], `${lsm} there, ${here['lsm']} here`, `boot this node with ${lsm}`);
  const { cpu } = source;
  if (cpu !== undefined && ours !== undefined) {
    found.push(await once(`${ours} ${cpu}`, async () => processorFeatures(await findCriu(), cpu)));
  }
  return found;
}

/** What was asked of CRIU about processors, which do not change: each question costs 100 ms of a preflight. */
const answers = new Map<string, unknown>();
/** One for each kind of processor that comes by. */
const maxAnswers = 100;

async function once<T>(question: string, ask: () => Promise<T>): Promise<T> {
  if (answers.has(question)) return answers.get(question) as T;
  const answer = await ask();
  if (answers.size >= maxAnswers) answers.clear();
  answers.set(question, answer);
  return answer;
}

async function dumpProcessor({ program }: Criu): Promise<string | null> {
  return await withDirectory(async (directory) => {
    const { exitCode } = await runCommand([program, 'cpuinfo', 'dump', '-D', directory], { limitMs });
    return exitCode === 0 ? (await readFile(join(directory, 'cpuinfo.img'))).toString('base64') : null;
  });
}

/** Whether this processor has every feature that programs which began on the other may have found there. */
async function processorFeatures({ program }: Criu, cpu: string): Promise<Capability> {
  return await withDirectory(async (directory) => {
    await writeFile(join(directory, 'cpuinfo.img'), Buffer.from(cpu, 'base64'));
    const argv = [program, 'cpuinfo', 'check', '-D', directory, '-o', 'check.log'];
    const { exitCode } = await runCommand(argv, { limitMs });
    if (exitCode === 0) return { name: 'cpu', ok: true, detail: 'has all features of the other', remedy: null };
    const log = await readFile(join(directory, 'check.log'), 'utf8').catch(() => '');
    const why = [...log.matchAll(/Error\s+\([^)]*\):\s*(?:cpu:\s*)?(.*)/g)].map((match) => match[1]).slice(0, 4);
    return {
      name: 'cpu',
      ok: false,
      detail: `the processor lacks what the other has${why.length === 0 ? '' : ` (${why.join('; ')})`}`,
      remedy: 'move it to a node whose processor has these features, or start it anew there',
    };
  });
}

/** Whether a container with this network can be one here: its bridge is there, and nobody else has its address. */
export async function networkFindings(network: LxcNetwork): Promise<Capability[]> {
  const { bridge, address } = network;
  const bridges = (await stat(`/sys/class/net/${bridge}/bridge`).catch(() => null)) !== null;
  const found: Capability[] = [
    {
      name: 'bridge',
      ok: bridges,
      detail: bridges ? `${bridge} is there` : `there is no bridge ${bridge}`,
      remedy: bridges ? null : `make it (ip link add ${bridge} type bridge), or set bridge=NAME where the service is`,
    },
  ];
  if (bridges) found.push(await addressFinding(network, address.split('/')[0] ?? ''));
  return found;
}

async function addressFinding({ bridge, mac }: LxcNetwork, ip: string): Promise<Capability> {
  const inUse = (who: string): Capability => ({
    name: 'address',
    ok: false,
    detail: `${ip} is in use here, by ${who}`,
    remedy: 'take the address off it, or give the service another one',
  });
  // Of all interfaces: an address on a bridge that nothing hangs on yet is taken too.
  const { stdout } = await runCommand(['ip', '-oneline', 'address', 'show', 'to', ip], { limitMs });
  const own = /^\d+:\s+(\S+)/.exec(stdout)?.[1];
  if (own !== undefined) return inUse(`this node’s own ${own}`);
  const holder = await neighbour(bridge, ip);
  // The service itself answers, if both nodes are on one network.
  if (holder !== null && holder !== mac) return inUse(holder);
  return { name: 'address', ok: true, detail: `${ip} is free as far as ${bridge} can tell`, remedy: null };
}

/** The Ethernet address that answers for an IPv4 address on a bridge's network; null if none does, or none can be asked. */
async function neighbour(bridge: string, ip: string): Promise<string | null> {
  const socket = createSocket('udp4');
  socket.on('error', () => {});
  try {
    // Whatever is sent, the kernel asks by ARP first. Port 9 is the discard service's.
    await new Promise<void>((resolve) => socket.send('', 9, ip, () => resolve()));
    for (const deadline = Date.now() + neighbourMs; Date.now() < deadline; await sleep(20)) {
      for (const line of (await readFile('/proc/net/arp', 'utf8')).split('\n')) {
        const [address, , flags, hardware, , device] = line.trim().split(/\s+/);
        // ATF_COM (linux/if_arp.h): the answer has come.
        if (address === ip && device === bridge && (Number(flags) & 2) !== 0) return hardware?.toLowerCase() ?? null;
      }
    }
    return null;
  } finally {
    socket.close();
  }
}

async function securityModule(): Promise<string> {
  for (const module of ['apparmor', 'selinux'] as const) {
    const there = module === 'apparmor' ? '/sys/module/apparmor' : '/sys/fs/selinux/enforce';
    if ((await stat(there).catch(() => null)) !== null) return module;
  }
  return 'none';
}

async function withDirectory<T>(work: (path: string) => Promise<T>): Promise<T> {
  const path = await mkdtemp(join(tmpdir(), 'deltahop-'));
  try {
    return await work(path);
  } finally {
    await rm(path, { recursive: true, force: true });
  }
}
