/** The faults: each is done to the real thing, says whether it was really done, and is mended as an operator would. */
import { closeSync, type Dirent, fstatSync, openSync, readdirSync, readSync, truncateSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TestbedNode } from '../testbed/node.js';
import type { Testbed } from '../testbed/testbed.js';
import type { Attempt } from './attempt.js';
import { type FoundProcess, findVictims, isThere, type Victim } from './victims.js';

type Side = 'source' | 'destination';

/** A fault that was injected. */
export interface Injected {
  /** Ends it; what is lasting only ends then. Fulfilled when nothing of it is left to be waited for. */
  mend(): Promise<void>;
  /** It goes on until it is mended: the service has to do without before. */
  lasting: boolean;
  /** With it the service can not move: if it does, the fault came too late to be met. */
  keepsAtSource?: true;
  /** Where no disk has room until then. */
  fullNode?: TestbedNode;
}

/** A fault. */
export interface Fault {
  name: string;
  /** Looks for what it will be done to, ahead of a step that leaves no time for that. */
  aim?(attempt: Attempt): void;
  /** @returns null if there was nothing to do it to. */
  inject(attempt: Attempt, testbed: Testbed): Promise<Injected | null>;
}

const nothing = async (): Promise<void> => {};

/** A victim may have to be waited for: at a step it may be just about to start, and a barrier's script comes after a dump. */
const victimLimitMs = (victim: Victim): number =>
  victim === 'barrier' ? 10_000 : victim === 'criu' || victim === 'lxc-checkpoint' ? 1000 : 150;

function killed(name: string, victim: Victim, side: Side): Fault {
  const aimed = new WeakMap<Attempt, FoundProcess[]>();
  const find = (attempt: Attempt): FoundProcess[] =>
    findVictims(victim, { stateDirectory: attempt[side].stateDirectory, service: attempt.service });
  const killAll = (found: readonly FoundProcess[]): boolean => found.filter((process) => kill(process)).length > 0;
  return {
    name,
    aim: (attempt) => {
      aimed.set(attempt, find(attempt));
    },
    inject: async (attempt) => {
      const injected = { mend: nothing, lasting: false };
      if (killAll(aimed.get(attempt) ?? [])) return injected;
      const deadline = Date.now() + victimLimitMs(victim);
      while (!attempt.over && Date.now() < deadline) {
        if (killAll(find(attempt))) return injected;
        await sleep(1);
      }
      return null;
    },
  };
}

/** @returns whether it was alive to be killed. */
function kill(found: FoundProcess): boolean {
  return signal(found, 'SIGKILL');
}

/** @returns whether it was alive to hear it. */
function signal(found: FoundProcess, what: NodeJS.Signals): boolean {
  if (!isThere(found)) return false;
  try {
    return process.kill(found.pid, what);
  } catch {
    return false;
  }
}

/**
 * The machine of a destination, which may be killed as long as it is held: once it runs, that is the end of its service. It
 * is stopped first, so that whether it was let go can not change any more.
 */
const heldMachineKilled: Fault = {
  name: 'kill-qemu-destination',
  inject: async (attempt) => {
    const place = { stateDirectory: attempt.destination.stateDirectory, service: attempt.service };
    const [found] = findVictims('qemu', place);
    if (found === undefined) return null;
    process.kill(found.pid, 'SIGSTOP');
    const isReleased = ['released', 'released.supervisor'].some((mark) => attempt.has('destination', mark));
    // Asked last: with the operation's directory the marks go.
    const held = !isReleased && attempt.operation('destination') === 'prepare';
    const hit = held && kill(found);
    if (!hit && isThere(found)) process.kill(found.pid, 'SIGCONT');
    return hit ? { mend: nothing, lasting: false } : null;
  },
};

/** Agents come back at once, as a service manager would have them do. */
function agentsKilled(name: string, sides: readonly Side[]): Fault {
  return {
    name,
    inject: async (attempt) => {
      const nodes = sides.map((side) => attempt[side]);
      await Promise.all(nodes.map((node) => node.stopAgent('SIGKILL')));
      return {
        mend: async () => {
          await Promise.all(nodes.map((node) => node.startAgent()));
        },
        lasting: false,
      };
    },
  };
}

const cutMs = 2_000;

function linkCut(name: string, lasting: boolean): Fault {
  return {
    name,
    inject: async (_attempt, { link }) => {
      await link.cut();
      return {
        mend: async () => {
          if (!lasting) await sleep(cutMs);
          await link.mend();
        },
        lasting,
      };
    },
  };
}

const ballast = 'ballast';

/** Takes every block of a node's disk. */
export async function fill(node: TestbedNode): Promise<void> {
  // What fallocate leaves, dd takes block by block.
  const script = `fallocate -l $(($(stat -f -c '%a*%S' "$1"))) "$1/${ballast}"
dd if=/dev/zero bs=4096 oflag=append conv=notrunc of="$1/${ballast}" 2>/dev/null
true`;
  await node.exec(['sh', '-c', script, 'sh', node.stateDirectory]);
}

/** Gives back what {@link fill} took. */
export async function makeRoom(node: TestbedNode): Promise<void> {
  await node.exec(['rm', '-f', join(node.stateDirectory, ballast)]);
}

function diskFull(name: string, side: Side): Fault {
  return {
    name,
    inject: async (attempt) => {
      const node = attempt[side];
      await fill(node);
      return {
        mend: () => makeRoom(node),
        lasting: true,
        fullNode: node,
      };
    },
  };
}

/** Turns bytes of a file over, in its midst, or cuts its end off. */
function spoil(path: string, how: 'turn' | 'cut'): boolean {
  let file: number;
  try {
    file = openSync(path, 'r+');
  } catch {
    return false;
  }
  try {
    const { size } = fstatSync(file);
    if (size === 0) return false;
    if (how === 'cut') {
      truncateSync(path, Math.floor(size / 2));
      return true;
    }
    const bytes = Buffer.alloc(Math.min(64, size));
    const at = Math.floor((size - bytes.length) / 2);
    readSync(file, bytes, 0, bytes.length, at);
    for (let index = 0; index < bytes.length; index++) bytes[index] = (bytes[index] ?? 0) ^ 0xff;
    writeSync(file, bytes, 0, bytes.length, at);
    return true;
  } finally {
    closeSync(file);
  }
}

/** Of what a driver keeps of a service's memory, in its directory of that name. */
function imageSpoiled(name: string, side: Side, directory: string, image: RegExp, how: 'turn' | 'cut'): Fault {
  return {
    name,
    inject: async (attempt) => {
      const memory = join(attempt[side].stateDirectory, 'services', attempt.service, 'workload', directory);
      const images = readdirSync(memory).filter((file) => image.test(file));
      const spoilt = images.filter((file) => spoil(join(memory, file), how));
      return spoilt.length === 0 ? null : { mend: nothing, lasting: false };
    },
  };
}

/** How long a saved state is waited for. Who reads it stands still meanwhile: less than the patience of those who wait for him. */
const stateLimitMs = 3_000;

/**
 * Cuts off the end of a machine's saved devices when they are written as a whole and nobody has read them yet: who would, the
 * source's transfer workers or the destination's QEMU, is stopped from the freeze on until it is done.
 */
function stateSpoiled(name: string, side: Side, reader: Victim): Fault {
  return {
    name,
    inject: async (attempt) => {
      const { stateDirectory } = attempt[side];
      const { service } = attempt;
      const state = join(stateDirectory, 'services', service, 'workload/live/memory/state');
      const readers = findVictims(reader, { stateDirectory, service }).filter((found) => signal(found, 'SIGSTOP'));
      try {
        for (const deadline = Date.now() + stateLimitMs; !attempt.over && Date.now() < deadline; await sleep(1)) {
          // QEMU has closed the source's by then, and a transfer gives the destination's its name when it is whole.
          if (attempt.phase === 'final' && spoil(state, 'cut'))
            return { mend: nothing, lasting: false, keepsAtSource: true };
        }
        return null;
      } finally {
        for (const found of readers) signal(found, 'SIGCONT');
      }
    },
  };
}

/** How many files of a layer are spoilt. */
const spoiltFiles = 3;

/** What has arrived of a layer so far, wherever the store keeps it; bytes move before there is a whole file. */
const layerSpoiled: Fault = {
  name: 'corrupt-layer-destination',
  inject: async (attempt) => {
    const { phase } = attempt;
    const layers = join(attempt.destination.stateDirectory, 'layers');
    while (!attempt.over && attempt.phase === phase) {
      let spoilt = 0;
      for (const path of arriving(layers)) {
        if (spoil(path, 'turn')) spoilt++;
        if (spoilt === spoiltFiles) break;
      }
      if (spoilt > 0) return { mend: nothing, lasting: false };
      await sleep(10);
    }
    return null;
  },
};

/** Files of layers that are on their way, with names of their own already. */
function* arriving(layers: string): Generator<string> {
  for (const store of readdirSync(layers).filter((name) => name.startsWith('.arriving-'))) {
    let entries: Dirent[];
    try {
      entries = readdirSync(join(layers, store), { recursive: true, withFileTypes: true });
    } catch {
      continue; // It changes while it is read.
    }
    for (const entry of entries) if (entry.isFile()) yield join(entry.parentPath, entry.name);
  }
}

/** All faults, by what they are called. */
export const faults: readonly Fault[] = [
  agentsKilled('kill-agent-source', ['source']),
  agentsKilled('kill-agent-destination', ['destination']),
  agentsKilled('kill-agents-both', ['source', 'destination']),
  killed('kill-worker-source', 'worker', 'source'),
  killed('kill-worker-destination', 'worker', 'destination'),
  killed('kill-criu-source', 'criu', 'source'),
  killed('kill-criu-destination', 'criu', 'destination'),
  killed('kill-lxc-destination', 'lxc-checkpoint', 'destination'),
  killed('kill-barrier-source', 'barrier', 'source'),
  killed('kill-supervisor-source', 'supervisor', 'source'),
  killed('kill-supervisor-destination', 'supervisor', 'destination'),
  linkCut('cut-2s', false),
  linkCut('cut-for-ever', true),
  killed('kill-qemu-source', 'qemu', 'source'),
  heldMachineKilled,
  diskFull('disk-full-source', 'source'),
  diskFull('disk-full-destination', 'destination'),
  layerSpoiled,
  imageSpoiled('corrupt-basis-destination', 'destination', 'memory', /^pages-/, 'turn'),
  imageSpoiled('corrupt-image-source', 'source', 'memory', /^(core|mm)-\d/, 'cut'),
  imageSpoiled('corrupt-image-destination', 'destination', 'memory', /^(core|mm)-\d/, 'cut'),
  imageSpoiled('corrupt-ram-destination', 'destination', 'live/memory', /^ram$/, 'turn'),
  stateSpoiled('corrupt-state-source', 'source', 'worker'),
  stateSpoiled('corrupt-state-destination', 'destination', 'qemu'),
];
