/** The faults: each is done to the real thing, says whether it was really done, and is mended as an operator would. */
import { closeSync, fstatSync, openSync, readdirSync, readSync, truncateSync, writeSync } from 'node:fs';
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
}

/** A fault. */
export interface Fault {
  name: string;
  /** @returns null if there was nothing to do it to. */
  inject(attempt: Attempt, testbed: Testbed): Promise<Injected | null>;
}

const nothing = async (): Promise<void> => {};

/** A victim may have to be waited for: at a step it may be just about to start. */
const victimLimitMs = 150;

function killed(name: string, victim: Victim, side: Side): Fault {
  return {
    name,
    inject: async (attempt) => {
      const place = { stateDirectory: attempt[side].stateDirectory, service: attempt.service };
      let found: FoundProcess[] = [];
      for (const deadline = Date.now() + victimLimitMs; found.length === 0 && Date.now() < deadline; await sleep(1)) {
        found = findVictims(victim, place);
      }
      const hit = found.filter((process) => kill(process));
      return hit.length === 0 ? null : { mend: nothing, lasting: false };
    },
  };
}

/** @returns whether it was alive to be killed. */
function kill(found: FoundProcess): boolean {
  if (!isThere(found)) return false;
  try {
    return process.kill(found.pid, 'SIGKILL');
  } catch {
    return false;
  }
}

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
async function fill(node: TestbedNode): Promise<void> {
  // What fallocate leaves, dd takes block by block.
  const script = `fallocate -l $(($(stat -f -c '%a*%S' "$1"))) "$1/${ballast}"
dd if=/dev/zero bs=4096 oflag=append conv=notrunc of="$1/${ballast}" 2>/dev/null
true`;
  await node.exec(['sh', '-c', script, 'sh', node.stateDirectory]);
}

const diskFull: Fault = {
  name: 'disk-full-destination',
  inject: async ({ destination }) => {
    await fill(destination);
    return {
      mend: async () => {
        await destination.exec(['rm', '-f', join(destination.stateDirectory, ballast)]);
      },
      lasting: true,
    };
  },
};

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

function imageSpoiled(name: string, side: Side, image: RegExp, how: 'turn' | 'cut'): Fault {
  return {
    name,
    inject: async (attempt) => {
      const memory = join(attempt[side].stateDirectory, 'services', attempt.service, 'workload/memory');
      const images = readdirSync(memory).filter((file) => image.test(file));
      const spoilt = images.filter((file) => spoil(join(memory, file), how));
      return spoilt.length === 0 ? null : { mend: nothing, lasting: false };
    },
  };
}

/** What has arrived of a layer so far, wherever the store keeps it. */
const layerSpoiled: Fault = {
  name: 'corrupt-layer-destination',
  inject: async ({ destination }) => {
    const layers = join(destination.stateDirectory, 'layers');
    const files = readdirSync(layers, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.parentPath.includes('/.arriving-'))
      .map((entry) => join(entry.parentPath, entry.name));
    const spoilt = files.slice(0, 3).filter((path) => spoil(path, 'turn'));
    return spoilt.length === 0 ? null : { mend: nothing, lasting: false };
  },
};

/** All faults, by what they are called. */
export const faults: readonly Fault[] = [
  agentsKilled('kill-agent-source', ['source']),
  agentsKilled('kill-agent-destination', ['destination']),
  agentsKilled('kill-agents-both', ['source', 'destination']),
  killed('kill-worker-source', 'worker', 'source'),
  killed('kill-worker-destination', 'worker', 'destination'),
  killed('kill-criu-source', 'criu', 'source'),
  killed('kill-criu-destination', 'criu', 'destination'),
  killed('kill-lxc-source', 'lxc-checkpoint', 'source'),
  killed('kill-lxc-destination', 'lxc-checkpoint', 'destination'),
  killed('kill-barrier-source', 'barrier', 'source'),
  killed('kill-barrier-destination', 'barrier', 'destination'),
  killed('kill-supervisor-source', 'supervisor', 'source'),
  killed('kill-supervisor-destination', 'supervisor', 'destination'),
  linkCut('cut-2s', false),
  linkCut('cut-for-ever', true),
  diskFull,
  layerSpoiled,
  imageSpoiled('corrupt-basis-destination', 'destination', /^pages-/, 'turn'),
  imageSpoiled('corrupt-image-source', 'source', /^(core|mm)-\d/, 'cut'),
  imageSpoiled('corrupt-image-destination', 'destination', /^(core|mm)-\d/, 'cut'),
];
