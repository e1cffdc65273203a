/** What two nodes must have in common for a container to be restored at one that was saved at the other. */
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { arch, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeltahopError } from '../../errors.js';
import { cgroupVersion, readHierarchies } from '../cgroup-hierarchies.js';
import { runCommand } from '../command.js';
import type { Capability, MachineFacts } from '../driver.js';
import { compareVersions } from '../version.js';
import { type Criu, findCriu } from './criu.js';

const limitMs = 10_000;

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

/** Numbers of this machine's processors that are in use. */
export async function onlineProcessors(): Promise<number[]> {
  return processorsIn(await readFile('/sys/devices/system/cpu/online', 'utf8'));
}

/** The numbers that a list of the kernel's names, e.g. `0-3,6`. */
export function processorsIn(list: string): number[] {
  return list.split(',').flatMap((range) => {
    const [first = 0, last = first] = range.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
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

async function securityModule(): Promise<string> {
  // The first is there on every kernel that knows AppArmor, whether it was booted with it or not.
  if ((await readFile('/sys/module/apparmor/parameters/enabled', 'utf8').catch(() => '')).startsWith('Y'))
    return 'apparmor';
  return (await stat('/sys/fs/selinux/enforce').catch(() => null)) === null ? 'none' : 'selinux';
}

async function withDirectory<T>(work: (path: string) => Promise<T>): Promise<T> {
  const path = await mkdtemp(join(tmpdir(), 'deltahop-'));
  try {
    return await work(path);
  } finally {
    await rm(path, { recursive: true, force: true });
  }
}
