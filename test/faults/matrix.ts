/** Which fault is injected at which step: every one at which it can hit something. */
import { type Fault, faults } from './inject.js';
import { type Step, steps } from './steps.js';

/** One fault at one step. */
export interface Cell {
  step: Step;
  fault: Fault;
}

const everywhere = ['kill-agent-source', 'kill-agent-destination', 'kill-agents-both', 'cut-2s', 'cut-for-ever'];
const workers = ['kill-worker-source', 'kill-worker-destination'];
const sourceDump = ['kill-criu-source', 'kill-lxc-source', 'kill-supervisor-source'];
const sourceBarrier = [...sourceDump, 'kill-barrier-source'];
const restore = ['kill-criu-destination', 'kill-lxc-destination', 'kill-supervisor-destination'];
const destinationBarrier = [...restore, 'kill-barrier-destination'];
const disk = ['disk-full-destination'];

/** What can be hit at a step beside the agents and the link. */
const besides: Readonly<Record<string, readonly string[]>> = {
  offer: disk,
  base: [...workers, ...disk, 'corrupt-layer-destination'],
  app: [...workers, ...disk, 'corrupt-layer-destination'],
  'round-dump': [...sourceDump, ...workers, ...disk],
  'round-send': [...workers, ...disk, 'corrupt-basis-destination'],
  'freeze-dump': [...sourceDump, ...workers, ...disk],
  frozen: [...sourceBarrier, ...workers, ...disk, 'corrupt-image-source'],
  final: [...sourceBarrier, ...workers, ...disk],
  restore: [...sourceBarrier, ...restore, ...workers, ...disk, 'corrupt-image-destination'],
  restored: [...sourceBarrier, ...destinationBarrier, ...disk],
  prepared: [...sourceBarrier, ...destinationBarrier, ...disk],
  committed: [...sourceBarrier, ...destinationBarrier, ...disk],
  'given-up': [...sourceBarrier, ...destinationBarrier, ...disk],
  heard: [...destinationBarrier, ...disk],
  released: [...restore, ...disk],
  running: disk,
  acknowledged: disk,
};

/** The short version: the dangerous ones, with each step and each kind of fault once at least. */
const quick = [
  'offer/kill-agents-both',
  'base/kill-worker-destination',
  'app/kill-agent-source',
  'round-dump/kill-supervisor-source',
  'round-send/cut-2s',
  'round-send/corrupt-basis-destination',
  'freeze-dump/kill-agent-source',
  'frozen/kill-barrier-source',
  'frozen/kill-criu-source',
  'final/kill-worker-source',
  'final/kill-lxc-source',
  'restore/kill-criu-destination',
  'restore/corrupt-image-destination',
  'restored/kill-barrier-destination',
  'restored/disk-full-destination',
  'prepared/kill-agents-both',
  'committed/kill-agent-source',
  'heard/kill-agent-destination',
  'released/cut-2s',
  'running/kill-agents-both',
];

/** Name of a cell, as `--only` takes it. */
export function nameOf({ step, fault }: Cell): string {
  return `${step.name}/${fault.name}`;
}

/** Every cell, or those of the short version. */
export function cells(short: boolean): Cell[] {
  const all = steps.flatMap((step) =>
    [...everywhere, ...(besides[step.name] ?? [])].map((name) => {
      const fault = faults.find((candidate) => candidate.name === name);
      if (fault === undefined) throw new Error(`no fault ${name}`);
      return { step, fault };
    }),
  );
  return short ? all.filter((cell) => quick.includes(nameOf(cell))) : all;
}
