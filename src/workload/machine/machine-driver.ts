import { mkdir, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CommonFile } from '../../engine/engine.js';
import { DeltahopError, isDeltahopError } from '../../errors.js';
import { probeAddress } from '../address-probe.js';
import type {
  ArrangedWorkload,
  Capability,
  ForeignWorkload,
  FrozenWorkload,
  InstanceSize,
  InstanceTree,
  InstanceTrees,
  MachineFacts,
  PreparedWorkload,
  Recovered,
  RoundWorkload,
  Throttle,
  Workload,
  WorkloadDriver,
  WorkloadState,
} from '../driver.js';
import { networkFindings } from '../network.js';
import { removeUnfinished } from '../replaced-file.js';
import { Turns } from '../turns.js';
import { decide, exists, removeOperation, verdictOf } from '../verdict.js';
import { endHold, type HoldKind, type HoldRemnant, isOfThisBoot, MachineBarrier, readHold } from './barrier.js';
import type { ArrangedMachine, Hypervisor, Machine, Saving } from './hypervisor.js';
import { checkInstanceImage, makeInstanceImage } from './instance-image.js';
import { copyLive, keepFile, mustBeFile } from './kept-file.js';
import { type MachineLayout, machineLayout } from './layout.js';
import { MachineThrottle, tryThrottle, unthrottle } from './throttle.js';

/** Bounds, in milliseconds. */
const limits = {
  /** A guest that has not switched itself off by then is switched off. */
  stopGently: 10_000,
  /** From a verdict to the supervisor's end. */
  settle: 10_000,
} as const;

/** A machine that has found no room goes on once its disk has as much: with less it would stand still again at once. */
const roomToGoOnBytes = 16 * 1024 * 1024;

/** A restore of a machine that was killed while it was held. */
const restoreLimitMs = 60_000;

/**
 * Virtual machines, whatever runs them: their disks are base ← app ← instance, and their QEMU goes on without the agent.
 *
 * See layout.ts for what is where, and barrier.ts for how a machine is held. Nothing that must outlive the agent lives in
 * this object.
 */
export class MachineDriver implements WorkloadDriver {
  readonly name: string;
  readonly layerForm = 'disk';
  readonly arrangesEarly: boolean;
  readonly goesAtOnce: boolean;
  readonly #hypervisor: Hypervisor;
  readonly #turns = new Turns();
  /** Of machines that this agent slows down, by their paths. */
  readonly #throttles = new Map<string, MachineThrottle>();

  constructor(hypervisor: Hypervisor) {
    this.name = hypervisor.name;
    this.arrangesEarly = hypervisor.arrangesEarly;
    this.goesAtOnce = hypervisor.arrangesEarly;
    this.#hypervisor = hypervisor;
  }

  capabilities(): Promise<readonly Capability[]> {
    return this.#hypervisor.capabilities();
  }

  checkSettings(
    name: string,
    settings: Readonly<Record<string, string>>,
    command: readonly string[],
  ): Readonly<Record<string, string>> {
    if (command.length > 0) {
      throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${name} is a virtual machine, which takes no command`);
    }
    return this.#hypervisor.complete(name, settings);
  }

  foreign(
    reference: string,
    given: { settings: Readonly<Record<string, string>>; command: readonly string[] },
  ): Promise<ForeignWorkload> {
    return this.#hypervisor.foreign(reference, given);
  }

  async create(workload: Workload): Promise<void> {
    const { layout, settings } = this.#hypervisor.machine(workload);
    const { kernel, initrd } = settings;
    for (const path of [workload.path, layout.boot, layout.disk, layout.memory, layout.records]) {
      // What a service has in memory is nobody else's business.
      await mkdir(path, { recursive: true, mode: 0o700 });
    }
    await keepFile(kernel, layout.kernel);
    await keepFile(initrd, layout.initrd);
  }

  start(workload: Workload): Promise<void> {
    return this.#turns.run(workload, 'start', async () => {
      const machine = this.#hypervisor.machine(workload);
      const { layout, settings } = machine;
      if ((await machine.find()) !== null) {
        if ((await readHold(layout.operation)) !== null || !(await machine.isSuspended())) return;
        await machine.resume();
        if (!(await machine.isStalled())) return;
        throw new DeltahopError('DELTAHOP_E_NO_SPACE', `${workload.name} stands still: a disk of this node is full`);
      }
      await this.#refuseUnable(workload.name);
      await removeOperation(layout.operation);
      await this.create(workload);
      if (settings.kernel !== null) await mustBeFile(layout.kernel, `the kernel of ${workload.name}`);
      if (settings.initrd !== null) await mustBeFile(layout.initrd, `the initrd of ${workload.name}`);
      await makeInstanceImage(layout.instanceImage, workload.appPath);
      await machine.clear();
      // It begins with memory of its own; what was saved does not fit it any more.
      await rm(layout.memory, { recursive: true, force: true });
      await mkdir(layout.memory, { mode: 0o700 });
      await machine.boot();
    });
  }

  stop(workload: Workload): Promise<void> {
    return this.#turns.run(workload, 'stop', () => this.#stop(this.#hypervisor.machine(workload)));
  }

  async resumeStalled(workload: Workload): Promise<boolean> {
    const machine = this.#hypervisor.machine(workload);
    const { disk, operation } = machine.layout;
    await this.#turns.settled(workload);
    const mayGoOn = async (): Promise<boolean> =>
      (await machine.find()) !== null && !isHeld(await readHold(operation)) && (await machine.isStalled());
    if (this.#turns.isBusy(workload) || !(await mayGoOn())) return false;
    const { bavail, bsize } = await statfs(disk);
    if (bavail * bsize < roomToGoOnBytes || this.#turns.isBusy(workload)) return false;
    return await this.#turns.run(workload, 'resume', async () => {
      // A freeze may have come in between.
      if (!(await mayGoOn())) return false;
      await machine.resume();
      return !(await machine.isStalled());
    });
  }

  async inspect(workload: Workload): Promise<WorkloadState> {
    const machine = this.#hypervisor.machine(workload);
    await this.#turns.settled(workload);
    const { note } = machine;
    const pid = await machine.find();
    if (pid === null) return { state: 'stopped', pid: null, note };
    const remnant = await readHold(machine.layout.operation);
    const isFrozen = isHeld(remnant) || (remnant === null && (await machine.isSuspended()));
    return { state: isFrozen ? 'frozen' : 'running', pid, note };
  }

  remove(workload: Workload): Promise<void> {
    return this.#turns.run(workload, 'remove', async () => {
      const machine = this.#hypervisor.machine(workload);
      await this.#stop(machine);
      const { disk, lastRound, roundBefore, records, appImage, operation } = machine.layout;
      for (const path of [dirname(disk), lastRound, roundBefore, records, appImage, ...machine.paths]) {
        await rm(path, { recursive: true, force: true });
      }
      await removeOperation(operation);
    });
  }

  async obstacles(): Promise<readonly Capability[]> {
    // A machine of ours has no device that could not move: it was built without, or not adopted with one.
    return [];
  }

  async probe(workload: Workload, probe: string): Promise<string | null> {
    const { network } = this.#hypervisor.machine(workload).settings;
    const { state } = await this.inspect(workload);
    if (state !== 'running') return `${workload.name} is ${state}`;
    return await probeAddress(network?.address.split('/')[0] ?? null, probe);
  }

  machine(): Promise<MachineFacts> {
    return this.#hypervisor.facts();
  }

  async admits(source: MachineFacts, workload: Workload): Promise<readonly Capability[]> {
    const machine = this.#hypervisor.machine(workload);
    const { network } = machine.settings;
    const links = network === null ? [] : networkFindings(network);
    return (await Promise.all([machine.differences(source), links])).flat();
  }

  async measure(workload: Workload): Promise<InstanceSize> {
    const machine = this.#hypervisor.machine(workload);
    const [memory, image] = await Promise.all([
      machine.measureMemory(),
      stat(machine.layout.instanceImage).catch(() => null),
    ]);
    return { ...memory, filesBytes: (image?.blocks ?? 0) * 512 };
  }

  async throttling(workload: Workload): Promise<Capability> {
    const machine = this.#hypervisor.machine(workload);
    const finding = { name: 'auto-converge', remedy: null };
    try {
      await mustRunHere(workload, machine);
      const [thread = 0] = await machine.processors();
      const how = await tryThrottle((await machine.find()) ?? 0, thread);
      return {
        ...finding,
        ok: true,
        detail: `slows its processors down by ${how} if it changes more than the link carries`,
      };
    } catch (error) {
      return { ...finding, ok: false, detail: (error as Error).message, remedy: 'leave out --auto-converge' };
    }
  }

  async throttle(workload: Workload): Promise<Throttle> {
    const machine = this.#hypervisor.machine(workload);
    await mustRunHere(workload, machine);
    const processors = await machine.processors();
    const { throttled } = machine.layout;
    await unthrottle(throttled);
    let throttle: MachineThrottle;
    try {
      throttle = await MachineThrottle.start(throttled, (await machine.find()) ?? 0, processors);
    } catch (error) {
      if (isDeltahopError(error)) throw error;
      const why = `${workload.name} can not be slowed down: ${(error as Error).message}`;
      throw new DeltahopError('DELTAHOP_E_UNSUPPORTED', why, { cause: error });
    }
    this.#throttles.set(workload.path, throttle);
    return {
      set: (share) => throttle.set(share),
      end: async () => {
        this.#throttles.delete(workload.path);
        await throttle.end();
      },
    };
  }

  round(workload: Workload, signal: AbortSignal): Promise<RoundWorkload> {
    return this.#turns.run(workload, 'round', async () => {
      const machine = this.#hypervisor.machine(workload);
      const { layout } = machine;
      await mustRunHere(workload, machine);
      const { lastRound, roundBefore } = layout;
      await rm(roundBefore, { recursive: true, force: true });
      await rename(lastRound, roundBefore).catch(ignoreMissing);
      let pausedMs = 0;
      try {
        for (const name of ['disk', 'memory']) await mkdir(join(lastRound, name), { recursive: true, mode: 0o700 });
        await copyLive(layout.disk, join(lastRound, 'disk'), signal);
        pausedMs = await machine.saveRunning(join(lastRound, 'memory'), signal);
      } catch (error) {
        await rm(lastRound, { recursive: true, force: true });
        throw error;
      }
      const trees = [treeOf(layout, 'boot', layout.boot, null)];
      const common = commonOf(workload, layout, join(lastRound, 'disk'));
      for (const name of ['disk', 'memory'] as const) {
        trees.push(treeOf(layout, name, join(lastRound, name), join(roundBefore, name), common));
      }
      return { instance: { trees }, pausedMs };
    });
  }

  async freeze(workload: Workload, signal: AbortSignal): Promise<FrozenWorkload> {
    const machine = this.#hypervisor.machine(workload);
    const { operation } = machine.layout;
    await this.#turns.begin(workload, 'freeze');
    try {
      await mustRunHere(workload, machine);
      signal.throwIfAborted();
      await removeOperation(operation);
      // Before the barrier is there: what is saved from now on is of this freeze.
      await rm(machine.savedState, { force: true });
      const barrier = await startBarrier(machine, 'freeze');
      try {
        // A thread without its quota's time would take as long to stop.
        await this.#throttles.get(workload.path)?.lift();
        return this.#frozen(workload, machine, barrier, await machine.freeze(signal));
      } catch (error) {
        await letRun(machine, barrier);
        throw error;
      }
    } catch (error) {
      this.#turns.end(workload);
      throw error;
    }
  }

  async staging(workload: Workload): Promise<InstanceTrees> {
    const layout = machineLayout(workload);
    await this.#turns.settled(workload);
    const { state } = await this.inspect(workload);
    if (state !== 'stopped') {
      throw new DeltahopError('DELTAHOP_E_BUSY', `${workload.name} is ${state} here: nothing can be received over it`);
    }
    await this.create(workload);
    await dropRounds(layout);
    const common = commonOf(workload, layout, layout.disk);
    return {
      trees: (['boot', 'disk', 'memory'] as const).map((name) => treeOf(layout, name, layout[name], null, common)),
    };
  }

  async arrange(workload: Workload, _signal: AbortSignal): Promise<ArrangedWorkload> {
    const machine = this.#hypervisor.machine(workload);
    const { operation } = machine.layout;
    await this.#turns.begin(workload, 'prepare');
    try {
      if ((await machine.find()) !== null || (await readHold(operation))?.released === true) {
        throw new DeltahopError('DELTAHOP_E_BUSY', `${workload.name} already runs here, or did`);
      }
      await Promise.all([machine.clear(), removeOperation(operation)]);
      await checkArrived(machine);
      try {
        const arranged = await machine.arrange();
        const barrier = await startBarrier(machine, 'prepare');
        return this.#arranged(workload, machine, barrier, arranged);
      } catch (error) {
        await clear(machine);
        throw error;
      }
    } catch (error) {
      this.#turns.end(workload);
      throw error;
    }
  }

  async decideFreeze(workload: Workload, verdict: 'commit' | 'abort'): Promise<'commit' | 'abort' | null> {
    const { operation } = machineLayout(workload);
    const remnant = await readHold(operation);
    return remnant?.kind === 'freeze' ? await decide(operation, verdict) : null;
  }

  async recover(workload: Workload): Promise<Recovered> {
    const machine = this.#hypervisor.machine(workload);
    const { kernel, initrd, appImage, operation } = machine.layout;
    await this.#turns.settled(workload);
    if (this.#turns.isBusy(workload)) return { released: false };
    if (!this.#throttles.has(workload.path)) await unthrottle(machine.layout.throttled);
    const remnant = await readHold(operation);
    let released = false;
    if (remnant !== null) {
      // Whatever still waits there has lost its agent; what is decided already stays so.
      const verdict = await decide(operation, 'abort');
      await endHold(remnant, limits.settle);
      released = remnant.kind === 'prepare' && (await readHold(operation))?.released === true;
      const lives = remnant.kind === 'prepare' ? released : verdict === 'abort';
      if (!lives) await machine.clear();
      else if (remnant.kind === 'freeze') await goOn(machine);
      // The one who let it go may have come no further than to say so.
      else if ((await machine.find()) !== null) await machine.resume();
    }
    // Of one that is over, too: its agent may have died while it removed it.
    await removeOperation(operation);
    await removeUnfinished(kernel, initrd, appImage, ...machine.paths);
    if ((await machine.find()) === null) {
      // One that was killed while it was starting has left no number, and one that has ended its interface.
      await machine.clear();
      await dropRounds(machine.layout);
    }
    return { released };
  }

  async #stop(machine: Machine): Promise<void> {
    if ((await machine.find()) !== null) {
      // What it answers says little; whether it ends counts.
      await machine.askToShutDown();
      for (const deadline = Date.now() + limits.stopGently; Date.now() < deadline; await sleep(50)) {
        if ((await machine.find()) === null) break;
      }
    }
    await machine.clear();
    // This comes last of all when a service has moved away.
    await machine.forget();
  }

  #frozen(workload: Workload, machine: Machine, barrier: MachineBarrier, saving: Saving): FrozenWorkload {
    const resumed = () =>
      new DeltahopError('DELTAHOP_E_CHECKPOINT', `${workload.name} has resumed here: its barrier gave way`);
    const gaveWay = new AbortController();
    void barrier.gaveWay().then(() => gaveWay.abort(resumed()));
    const { layout } = machine;
    const { frozenAtMs } = saving;
    // Beside the last pass over the disk.
    const saved = saving.done.then(() => Date.now() - frozenAtMs);
    saved.catch(() => {});
    return {
      frozenAtMs,
      gaveWay: gaveWay.signal,
      files: { trees: [treeOf(layout, 'disk', layout.disk, join(layout.lastRound, 'disk'))] },
      memory: async () => ({
        saverMs: await saved,
        instance: { trees: [treeOf(layout, 'memory', layout.memory, join(layout.lastRound, 'memory'))] },
        filesChanged: false,
      }),
      commit: async () => {
        if ((await barrier.decide('commit')) !== 'commit') throw resumed();
        try {
          await machine.end();
        } catch (error) {
          this.#turns.end(workload);
          throw error;
        }
        this.#turns.settleLater(workload, async () => {
          await clear(machine, barrier);
          await dropRounds(layout);
        });
      },
      abort: async () => {
        if ((await verdictOf(layout.operation)) === 'commit') {
          throw new DeltahopError('DELTAHOP_E_CHECKPOINT', `${workload.name} was given up already and can not resume`);
        }
        try {
          // It does not go on while it is being saved.
          await saving.cancel();
          await saved.catch(() => {});
          await letRun(machine, barrier);
        } finally {
          this.#turns.end(workload);
        }
      },
    };
  }

  /** Takes back what was arranged or restored; its files stay. */
  async #giveUp(workload: Workload, machine: Machine, barrier: MachineBarrier): Promise<void> {
    try {
      await barrier.decide('abort');
      await clear(machine, barrier);
    } finally {
      this.#turns.end(workload);
    }
  }

  #arranged(
    workload: Workload,
    machine: Machine,
    barrier: MachineBarrier,
    arranged: ArrangedMachine,
  ): ArrangedWorkload {
    const giveUp = (): Promise<void> => this.#giveUp(workload, machine, barrier);
    return {
      useFiles: async () => {},
      prepare: async (signal) => {
        try {
          signal.throwIfAborted();
          await checkArrived(machine);
          const startedAt = performance.now();
          await arranged.load(signal);
          return this.#prepared(workload, machine, barrier, performance.now() - startedAt);
        } catch (error) {
          await giveUp();
          throw error;
        }
      },
      abandon: giveUp,
    };
  }

  #prepared(workload: Workload, machine: Machine, barrier: MachineBarrier, restorerMs: number): PreparedWorkload {
    const { operation } = machine.layout;
    return {
      restorerMs: Math.round(restorerMs),
      commit: async () => {
        if ((await machine.find()) === null) {
          // It has not run: without the mark that it was let go it is restored once more.
          await this.#giveUp(workload, machine, barrier);
          throw new DeltahopError('DELTAHOP_E_RESTORE', `${workload.name} has ended while it was held`);
        }
        try {
          if ((await barrier.decide('commit')) !== 'commit') {
            throw new DeltahopError('DELTAHOP_E_RESTORE', `${workload.name} was not held any more`);
          }
          await machine.resume(async () => {
            await barrier.mark('released');
            // That may have taken long, with others' files on their way to the same disk.
            if ((await machine.find()) !== null) return;
            await barrier.unmark('released');
            throw new DeltahopError('DELTAHOP_E_RESTORE', `${workload.name} has ended while it was held`);
          });
        } catch (error) {
          await barrier.ended(limits.settle);
          // With the mark its memory may have changed: whatever has failed, the mark stays, and it is not restored once more.
          if ((await readHold(operation))?.released !== true) await clear(machine, barrier);
          this.#turns.end(workload);
          throw error;
        }
        this.#turns.settleLater(workload, async () => {
          await barrier.ended(limits.settle);
          if ((await machine.find()) !== null) await removeOperation(operation);
        });
      },
      abort: async () => {
        if ((await verdictOf(operation)) === 'commit') {
          throw new DeltahopError('DELTAHOP_E_RESTORE', `${workload.name} was let go already; stop it instead`);
        }
        await this.#giveUp(workload, machine, barrier);
      },
    };
  }

  /** @throws DeltahopError DELTAHOP_E_TOOL_MISSING naming what is missing or too old, and the way out. */
  async #refuseUnable(name: string): Promise<void> {
    const lacking = (await this.#hypervisor.capabilities()).filter(({ ok }) => !ok);
    if (lacking.length === 0) return;
    const reasons = lacking.map(({ name: what, detail, remedy }) => `${what}: ${detail} (${remedy})`);
    throw new DeltahopError('DELTAHOP_E_TOOL_MISSING', `${name} can not be started: ${reasons.join('; ')}`);
  }
}

/** Lets a machine run on that was stopped, or was about to be. */
async function letRun(machine: Machine, barrier: MachineBarrier): Promise<void> {
  await barrier.decide('abort');
  await barrier.ended(limits.settle);
  // If that fails, what is left of the operation tells recovery that it can still be done.
  await goOn(machine);
  await removeOperation(machine.layout.operation);
}

/** Has a machine go on whose freeze came to nothing, from what was saved of it if its QEMU was killed meanwhile. */
async function goOn(machine: Machine): Promise<void> {
  const { layout, savedState } = machine;
  const restoring = join(layout.operation, 'restoring');
  const [lives, isSaved, isRestoring] = [await machine.find(), await exists(savedState), await exists(restoring)];
  // One that waits for its state, whose agent has died meanwhile, has to be loaded once more.
  if (lives === null || (isSaved && isRestoring)) {
    // Without it, it has run since: then it has ended by itself. What was in its memory has not survived a boot.
    if (!isSaved || !(await isOfThisBoot(layout.operation))) return;
    await writeFile(restoring, '');
    try {
      await machine.clear();
      await (await machine.arrange()).load(AbortSignal.timeout(restoreLimitMs));
    } catch (error) {
      await machine.clear();
      throw error;
    }
  }
  await machine.resume(() => rm(savedState, { force: true }));
}

async function startBarrier(machine: Machine, kind: HoldKind): Promise<MachineBarrier> {
  const { layout, holdActions, savedState } = machine;
  return await MachineBarrier.start(layout.operation, kind, holdActions, savedState, limits.settle);
}

/** Whether an operation holds its machine. */
function isHeld(remnant: HoldRemnant | null): boolean {
  if (remnant === null) return false;
  return remnant.kind === 'prepare' ? !remnant.released : remnant.verdict !== 'abort';
}

/** Ends it here; its files stay. */
async function clear(machine: Machine, barrier?: MachineBarrier): Promise<void> {
  await machine.clear();
  await barrier?.ended(limits.settle);
  await removeOperation(machine.layout.operation);
}

/** Removes the copies of what was sent in rounds, each of which has the size of the machine's memory. */
async function dropRounds({ lastRound, roundBefore }: MachineLayout): Promise<void> {
  for (const path of [lastRound, roundBefore]) await rm(path, { recursive: true, force: true });
}

function treeOf(
  layout: MachineLayout,
  name: 'boot' | 'disk' | 'memory',
  path: string,
  basisPath: string | null,
  common: readonly CommonFile[] = [],
): InstanceTree {
  const recordPath = join(layout.records, name);
  return {
    name,
    path,
    excludeXattrs: [],
    // Made durable beside the restore.
    durable: name !== 'memory',
    inPlace: name !== 'boot',
    timesTell: false,
    recordPath,
    basis: basisPath === null ? null : { treePath: basisPath, recordPath },
    // Its disk has nothing of them, and what it boots with is no file of pages.
    common: name === 'memory' ? common : [],
  };
}

/**
 * Much of a machine's memory is what it has read from its disks and was booted with, all of which the other node holds once
 * the trees before its memory have come: of the layers the digests say so, of the others their contents.
 */
function commonOf(workload: Workload, layout: MachineLayout, disk: string): CommonFile[] {
  return [
    { path: join(workload.basePath, 'disk'), id: workload.base },
    { path: join(workload.appPath, 'disk'), id: workload.app },
    ...[join(disk, basename(layout.instanceImage)), layout.kernel, layout.initrd].map((path) => ({ path, id: null })),
  ];
}

/** What a peer has sent must be what QEMU may open: a link would let the guest read a file of this node. */
async function checkArrived(machine: Machine): Promise<void> {
  const { layout, settings } = machine;
  if (settings.kernel !== null) await mustBeFile(layout.kernel, layout.kernel);
  if (settings.initrd !== null) await mustBeFile(layout.initrd, layout.initrd);
  await mustBeFile(layout.instanceImage, layout.instanceImage);
  await checkInstanceImage(layout.instanceImage);
  await machine.checkArrived();
}

async function mustRunHere(workload: Workload, machine: Machine): Promise<void> {
  if ((await machine.find()) === null) {
    throw new DeltahopError('DELTAHOP_E_NOT_RUNNING', `${workload.name} does not run here`);
  }
}

function ignoreMissing(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
}
