/** The QEMU of one service: how it is started, saved, loaded and ended. It goes on without the agent. */
import { lstat, mkdir, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeltahopError } from '../../errors.js';
import { mustRun, runCommand, startDetached } from '../command.js';
import type { Capability, InstanceSize, MachineFacts, Workload } from '../driver.js';
import { writeAppImage } from '../machine/app-image.js';
import type { HoldActions } from '../machine/barrier.js';
import type { ArrangedMachine, Machine, Saving } from '../machine/hypervisor.js';
import { mustBeFile } from '../machine/kept-file.js';
import { endEveryQemu, endQemu, findQemu, type QemuMark } from '../machine/qemu-process.js';
import { exists, quote } from '../verdict.js';
import { acceleratorNote, differences } from './capabilities.js';
import { type QemuLayout, qemuLayout } from './layout.js';
import { Qmp } from './qmp.js';
import { parseSettings, type QemuSettings } from './settings.js';

/** How long QEMU may take until its monitor listens. */
const startLimitMs = 20_000;
const commandLimitMs = 10_000;
const copyLimitMs = 600_000;
/** Saving or loading the state of the devices, which is under 1 MB. */
const stateLimitMs = 30_000;
const pollMs = 5;

/** Pieces of memory that are looked at, and how many of them are kept at the most. */
const samplePieces = 512;
const samplePiecesKept = 64;
const samplePieceBytes = 32 * 1024;

/** The kernel's bound for the path of a unix socket, its end mark counted (unix(7)). */
const maxSocketPath = 108;

/**
 * A virtual machine whose memory is a file that QEMU works in (`memory-backend-file,share=on`): a round is a copy of it
 * while the machine runs, torn pages and all, since the file itself is compared once more when the machine has stopped.
 * What is left then is the state of the devices, which takes milliseconds.
 */
export class QemuMachine implements Machine {
  readonly layout: QemuLayout;
  readonly #workload: Workload;
  readonly #mark: QemuMark;

  constructor(workload: Workload) {
    const layout = qemuLayout(workload);
    this.layout = layout;
    this.#workload = workload;
    const { id, pidFile } = layout;
    // The path of its number file is this service's alone.
    this.#mark = { id, pidFile, isIts: (words) => words[words.indexOf('-pidfile') + 1] === pidFile };
  }

  get settings(): QemuSettings {
    return parseSettings(this.#workload.name, this.#workload.settings);
  }

  get note(): string {
    return acceleratorNote(this.settings);
  }

  get paths(): readonly string[] {
    return [this.layout.machine];
  }

  get savedState(): string {
    return this.layout.state;
  }

  /** By a monitor of its own, two fifos, and its process number. */
  get holdActions(): HoldActions {
    const { monitor, pidFile } = this.layout;
    const isIts = `tr '\\0' '\\n' <"/proc/$pid/cmdline" | grep -qxF ${quote(pidFile)}`;
    return {
      lives: `read -r pid <${quote(pidFile)} && ${isIts}`,
      // Opened for both, since opening a fifo that nobody reads would wait for ever.
      resume: `exec 4<>${quote(`${monitor}.in`)} && echo cont >&4`,
      end: `read -r pid <${quote(pidFile)}
  while ${isIts}; do kill -KILL "$pid"; sleep 0.02; done`,
    };
  }

  differences(source: MachineFacts): Promise<readonly Capability[]> {
    return differences(source, this.settings);
  }

  find(): Promise<number | null> {
    return findQemu(this.#mark);
  }

  async processors(): Promise<readonly number[]> {
    return await this.#withMonitor((qmp) => qmp.processors());
  }

  async isSuspended(): Promise<boolean> {
    // By QEMU itself, when a disk was full. One whose monitor does not answer is taken to run.
    return await this.#withMonitor(async (qmp) => (await qmp.status()) !== 'running').catch(() => false);
  }

  async isStalled(): Promise<boolean> {
    // Nothing but a full disk makes QEMU stop a machine of ours so; every other error its guest hears of.
    return await this.#withMonitor(async (qmp) => (await qmp.status()) === 'io-error').catch(() => false);
  }

  async boot(): Promise<void> {
    await startMachine(this.#workload, this.layout, this.settings, 'boot');
  }

  async askToShutDown(): Promise<void> {
    await this.#withMonitor(async (qmp) => {
      await qmp.execute('cont');
      await qmp.execute('system_powerdown');
    }).catch(() => {});
  }

  async resume(before: () => Promise<void> = async () => {}): Promise<void> {
    await this.#withMonitor(async (qmp) => {
      await before();
      await qmp.execute('cont');
      const status = await qmp.status();
      // It ran, and has found no room at once.
      if (status === 'running' || status === 'io-error') return;
      throw new DeltahopError('DELTAHOP_E_WORKLOAD', `${this.layout.id} is ${status} and does not run`);
    });
  }

  end(): Promise<void> {
    return endQemu(this.#mark);
  }

  async clear(): Promise<void> {
    await endEveryQemu(this.#mark);
    await removeInterface(this.layout);
  }

  async forget(): Promise<void> {}

  async measureMemory(): Promise<Pick<InstanceSize, 'memoryBytes' | 'memorySample'>> {
    return await measure(this.layout.ram);
  }

  async saveRunning(directory: string, signal: AbortSignal): Promise<number> {
    // cp would read all that is reserved, as a file with so many blocks has no holes in its eyes.
    const argv = ['qemu-img', 'convert', '-f', 'raw', '-O', 'raw', '-S', '4k', this.layout.ram, join(directory, 'ram')];
    await mustRun(argv, { limitMs: copyLimitMs, signal, code: 'DELTAHOP_E_IO' });
    return 0;
  }

  async freeze(): Promise<Saving> {
    const { state } = this.layout;
    return await this.#withMonitor(async (qmp) => {
      await rm(state, { force: true });
      const frozenAtMs = Date.now();
      await qmp.execute('stop');
      const why = await qmp.migrate('migrate', `file:${state}`, stateLimitMs);
      if (why !== null) {
        throw new DeltahopError('DELTAHOP_E_CHECKPOINT', `${this.#workload.name} could not be saved: ${why}`);
      }
      return { frozenAtMs, done: Promise.resolve(), cancel: async () => {} };
    });
  }

  async checkArrived(): Promise<void> {
    const { ram } = this.layout;
    const { memoryBytes } = this.settings;
    await mustBeFile(ram, ram);
    const { size } = await lstat(ram);
    if (size !== memoryBytes) {
      throw new DeltahopError('DELTAHOP_E_RESTORE', `${ram} has ${size} bytes instead of ${memoryBytes}`);
    }
  }

  async arrange(): Promise<ArrangedMachine> {
    const { ram, state } = this.layout;
    const { name } = this.#workload;
    const inode = await this.#startIncoming();
    return {
      load: async () => {
        await mustBeFile(state, `the saved state of ${name}`);
        if ((await lstat(ram)).ino !== inode) {
          // It maps a file that is not the memory any more.
          await this.clear();
          await this.#startIncoming();
        }
        // Not before: what arrives makes holes again.
        const [why] = await Promise.all([
          this.#withMonitor((qmp) => qmp.migrate('migrate-incoming', `file:${state}`, stateLimitMs)),
          reserveMemory(name, this.layout, this.settings),
        ]);
        if (why === null) return;
        throw new DeltahopError('DELTAHOP_E_RESTORE', `${name} could not be restored: ${why}`);
      },
    };
  }

  /** Starts a QEMU that waits for a state. @returns the number of the file that is its memory. */
  async #startIncoming(): Promise<number> {
    const { ino } = await lstat(this.layout.ram);
    await startMachine(this.#workload, this.layout, this.settings, 'incoming');
    return ino;
  }

  async #withMonitor<Result>(work: (qmp: Qmp) => Promise<Result>): Promise<Result> {
    const qmp = await Qmp.connect(this.layout.qmpSocket);
    try {
      return await work(qmp);
    } finally {
      qmp.close();
    }
  }
}

/** `boot`: from its disk, in fresh memory. `incoming`: waits for a state, in the memory that is there. */
type MachineMode = 'boot' | 'incoming';

/** QEMU's arguments. Pure. */
export function machineArguments(
  workload: Pick<Workload, 'basePath' | 'appPath'>,
  layout: QemuLayout,
  settings: QemuSettings,
  mode: MachineMode,
): string[] {
  const { memoryBytes, cpus, machine, cpu, accelerator, network, kernel, initrd, append } = settings;
  const json = (value: object): string => JSON.stringify(value);
  const file = (name: string, filename: string, readOnly: boolean): string[] => [
    '-blockdev',
    json({ driver: 'file', 'node-name': name, filename, 'read-only': readOnly }),
  ];
  // By their names the threads of its processors are told from the others.
  const args = ['-name', `${layout.id},debug-threads=on`, '-nodefaults', '-no-user-config', '-display', 'none'];
  args.push('-pidfile', layout.pidFile);
  // What a guest could break out of starts nothing and gains nothing.
  args.push('-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny');
  args.push('-machine', `${machine},accel=${accelerator},memory-backend=ram`, '-cpu', cpu, '-smp', `${cpus}`);
  args.push('-m', `${memoryBytes}B`);
  args.push(
    '-object',
    json({ 'qom-type': 'memory-backend-file', id: 'ram', size: memoryBytes, 'mem-path': layout.ram, share: true }),
  );
  // The chain is given here, and nothing that an image says of others counts.
  args.push(...file('base-file', join(workload.basePath, 'disk'), true));
  args.push('-blockdev', json({ driver: 'raw', 'node-name': 'base', file: 'base-file', 'read-only': true }));
  args.push(...file('app-file', layout.appImage, true), ...file('app-data', join(workload.appPath, 'disk'), true));
  const app = { file: 'app-file', 'data-file': 'app-data', backing: 'base', 'read-only': true };
  args.push('-blockdev', json({ driver: 'qcow2', 'node-name': 'app', ...app }));
  args.push(...file('instance-file', layout.instanceImage, false));
  args.push(
    '-blockdev',
    json({ driver: 'qcow2', 'node-name': 'instance', file: 'instance-file', backing: 'app', discard: 'unmap' }),
  );
  args.push('-device', 'virtio-blk-pci,drive=instance,id=disk0', '-device', 'virtio-rng-pci,id=rng0');
  if (network !== null) {
    args.push('-netdev', `tap,id=net0,ifname=${layout.hostInterface},script=no,downscript=no`);
    args.push('-device', `virtio-net-pci,netdev=net0,id=nic0,mac=${network.mac},romfile=`);
  }
  if (kernel !== null) {
    args.push('-kernel', layout.kernel, '-append', append);
    if (initrd !== null) args.push('-initrd', layout.initrd);
  }
  // The end of what the guest prints, and no file that it could fill the disk with.
  args.push('-chardev', 'ringbuf,id=console,size=65536', '-serial', 'chardev:console');
  args.push(
    '-chardev',
    `socket,id=qmp,path=${layout.qmpSocket},server=on,wait=off`,
    '-mon',
    'chardev=qmp,mode=control',
  );
  args.push('-chardev', `pipe,id=barrier,path=${layout.monitor}`, '-mon', 'chardev=barrier,mode=readline');
  if (mode === 'incoming') args.push('-S', '-incoming', 'defer');
  return args;
}

/**
 * Starts QEMU and waits until its monitor listens. Its network interface is on the bridge at once: a machine that does not
 * run sends nothing.
 * @throws DeltahopError DELTAHOP_E_WORKLOAD with what QEMU said; nothing runs then.
 */
async function startMachine(
  workload: Workload,
  layout: QemuLayout,
  settings: QemuSettings,
  mode: MachineMode,
): Promise<void> {
  if (Buffer.byteLength(layout.qmpSocket) >= maxSocketPath || layout.qmpSocket.includes(',')) {
    const why = 'must be shorter than 108 bytes, without commas: choose another state directory';
    throw new DeltahopError('DELTAHOP_E_WORKLOAD', `${layout.qmpSocket}: a monitor’s path ${why}`);
  }
  await rm(layout.machine, { recursive: true, force: true });
  await mkdir(layout.machine, { recursive: true, mode: 0o700 });
  await writeAppImage(workload.appPath, layout.appImage);
  for (const way of ['in', 'out']) {
    await mustRun(['mkfifo', '-m', '600', `${layout.monitor}.${way}`], {
      limitMs: commandLimitMs,
      code: 'DELTAHOP_E_IO',
    });
  }
  if (settings.network !== null) await makeInterface(layout, settings.network.bridge);
  if (mode === 'boot') await reserveMemory(workload.name, layout, settings);
  const output = await open(layout.output, 'a');
  try {
    const args = machineArguments(workload, layout, settings, mode);
    const qemu = await startDetached(['qemu-system-x86_64', ...args], output.fd, {});
    for (const deadline = Date.now() + startLimitMs; ; await sleep(pollMs)) {
      if (!qemu.hasEnded() && (await exists(layout.qmpSocket)) && (await exists(layout.pidFile))) {
        // An agent that is told to stop does so, and the machine runs on.
        qemu.unref();
        return;
      }
      if (!qemu.hasEnded() && Date.now() < deadline) continue;
      qemu.kill();
      await removeInterface(layout);
      const said = (await readFile(layout.output, 'utf8').catch(() => '')).trim().split('\n').at(-1) ?? '';
      throw new DeltahopError(
        'DELTAHOP_E_WORKLOAD',
        `${workload.name}: QEMU did not start: ${said.slice(0, 500) || 'it does not answer'}`,
      );
    }
  } finally {
    await output.close();
  }
}

/**
 * Takes the room for all of its memory: a page that it uses for the first time while its disk is full would be its end
 * (SIGBUS). What is reserved and was never written is still a hole to whoever looks for data.
 */
async function reserveMemory(name: string, { ram }: QemuLayout, { memoryBytes }: QemuSettings): Promise<void> {
  const argv = ['fallocate', '--length', `${memoryBytes}`, ram];
  const { exitCode, stderr } = await runCommand(argv, { limitMs: commandLimitMs });
  // Not every file system can.
  if (exitCode === 0 || !stderr.includes('No space left')) return;
  throw new DeltahopError('DELTAHOP_E_NO_SPACE', `there is no room for the memory of ${name}, ${memoryBytes} bytes`);
}

async function makeInterface(layout: QemuLayout, bridge: string): Promise<void> {
  await removeInterface(layout);
  const options = { limitMs: commandLimitMs, code: 'DELTAHOP_E_WORKLOAD' } as const;
  try {
    await mustRun(['ip', 'tuntap', 'add', 'dev', layout.hostInterface, 'mode', 'tap'], options);
    await mustRun(['ip', 'link', 'set', 'dev', layout.hostInterface, 'master', bridge, 'up'], options);
  } catch (error) {
    await removeInterface(layout);
    throw error;
  }
}

async function removeInterface({ hostInterface }: QemuLayout): Promise<void> {
  // That there is none any more is the usual case.
  await runCommand(['ip', 'link', 'delete', 'dev', hostInterface], { limitMs: commandLimitMs });
}

/** How much of a memory file is not zeros, and pieces of that, each as likely as any other. Its blocks are all reserved. */
async function measure(path: string): Promise<Pick<InstanceSize, 'memoryBytes' | 'memorySample'>> {
  const file = await open(path, 'r').catch(() => null);
  if (file === null) return { memoryBytes: 0, memorySample: Buffer.alloc(0) };
  try {
    const { size } = await file.stat();
    const step = Math.max(samplePieceBytes, Math.floor(size / samplePieces / samplePieceBytes) * samplePieceBytes);
    const used: Buffer[] = [];
    let looked = 0;
    for (let at = 0; at < size; at += step) {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(samplePieceBytes), 0, samplePieceBytes, at);
      if (buffer.some((byte) => byte !== 0)) used.push(buffer.subarray(0, bytesRead));
      looked++;
    }
    const every = Math.max(1, Math.ceil(used.length / samplePiecesKept));
    const memorySample = Buffer.concat(used.filter((_, index) => index % every === 0));
    return { memoryBytes: looked === 0 ? 0 : Math.round((size * used.length) / looked), memorySample };
  } finally {
    await file.close();
  }
}
