/**
 * Watches from a thread of its own, every few milliseconds, which copies of probes run on this machine: a container's probe
 * by the tick in its name, a virtual machine by the time of its processors' threads, which stands still while it is held.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { isMainThread, type MessagePort, parentPort, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { RunJudge } from './run-judge.js';

const pauseMs = 5;
/** A process that has not taken its name by then is no probe's. */
const strangerMs = 5_000;
/** Held machines take less: at their start and when they load a state, never again. A running one takes it in a moment. */
const ranNs = 10_000_000;

/** What was seen of one service since the last report on it. */
export interface WatchReport {
  service: string;
  /** The copy that was last seen to run; null: none was ever seen, and so nothing is known. */
  runner: string | null;
  violations: string[];
  samples: number;
  /** The longest time between two samples: what is shorter may have been missed. */
  longestBlindMs: number;
}

/** A copy: which service's, and which process. */
interface Copy {
  service: string;
  identity: string;
}

interface Watched {
  since: number;
  /** null until it is known to be a probe's. */
  probe: Copy | null;
  /** Of a virtual machine; null until it is known to be one. */
  machine: (Copy & { processors: string[]; seenNs: number }) | null;
}

function text(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** One look after another at every process of the machine: a copy that has left its cgroup counts like any other. */
class Look {
  readonly #watched = new Map<string, Watched>();
  readonly #judges = new Map<string, RunJudge>();

  all(now: number): void {
    const present = new Set<string>();
    for (const pid of readdirSync('/proc')) {
      const first = pid.charCodeAt(0);
      if (first < 48 || first > 57) continue;
      present.add(pid);
      this.#one(pid, now);
    }
    for (const pid of this.#watched.keys()) if (!present.has(pid)) this.#watched.delete(pid);
  }

  judge(service: string): RunJudge {
    let judge = this.#judges.get(service);
    if (judge === undefined) {
      judge = new RunJudge();
      this.#judges.set(service, judge);
    }
    return judge;
  }

  #one(pid: string, now: number): void {
    let known = this.#watched.get(pid);
    if (known === undefined) {
      known = { since: now, probe: null, machine: null };
      this.#watched.set(pid, known);
    }
    if (known.machine !== null) {
      this.#machine(pid, known.machine);
      return;
    }
    if (known.probe === null && now - known.since > strangerMs) return;
    const name = text(`/proc/${pid}/comm`).trim();
    if (name.startsWith('qemu-system')) known.machine = machineOf(pid);
    const tick = /^tick (\d+)$/.exec(name)?.[1];
    if (tick === undefined) return;
    known.probe ??= probeOf(pid);
    if (known.probe === null) return;
    const { service, identity } = known.probe;
    this.judge(service).see({ identity, tick: Number(tick) });
  }

  #machine(pid: string, machine: NonNullable<Watched['machine']>): void {
    const { service, identity, processors, seenNs } = machine;
    const ns = processors.reduce((sum, thread) => sum + runNsOf(`${pid}/task/${thread}`), 0);
    if (ns - seenNs < ranNs) return;
    machine.seenNs = ns;
    this.judge(service).seeRun(identity);
  }
}

function probeOf(pid: string): Copy | null {
  const [, container, service] = /lxc\.payload\.((\S+)-[0-9a-f]{8})/.exec(text(`/proc/${pid}/cgroup`)) ?? [];
  const startTime = startTimeOf(pid);
  if (service === undefined || startTime === undefined) return null;
  return { service, identity: `${container}:${pid}:${startTime}` };
}

/** null as long as its processors have no threads. */
function machineOf(pid: string): Watched['machine'] {
  const words = text(`/proc/${pid}/cmdline`).split('\0');
  const [, machine, service] = /^((\S+)-[0-9a-f]{8}),/.exec(words[words.indexOf('-name') + 1] ?? '') ?? [];
  const startTime = startTimeOf(pid);
  const processors = threadsOf(pid).filter((thread) => text(`/proc/${pid}/task/${thread}/comm`).startsWith('CPU '));
  if (service === undefined || startTime === undefined || processors.length === 0) return null;
  return { service, identity: `${machine}:${pid}:${startTime}`, processors, seenNs: 0 };
}

function startTimeOf(pid: string): string | undefined {
  const stat = text(`/proc/${pid}/stat`);
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
}

function threadsOf(pid: string): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

/** How long a thread has had a processor of this machine. */
function runNsOf(task: string): number {
  return Number(text(`/proc/${task}/schedstat`).split(' ')[0] ?? 0);
}

function watch(port: MessagePort): void {
  const look = new Look();
  const pause = new Int32Array(new SharedArrayBuffer(4));
  /** Since the last report on a service. */
  const since = new Map<string, { samples: number; longestBlindMs: number }>();
  for (let lastAt = performance.now(); ; ) {
    const now = performance.now();
    look.all(now);
    for (const seen of since.values()) {
      seen.samples++;
      seen.longestBlindMs = Math.max(seen.longestBlindMs, Math.round(now - lastAt));
    }
    lastAt = now;
    const service = receiveMessageOnPort(port)?.message as string | undefined;
    if (service !== undefined) {
      const judge = look.judge(service);
      const violations = judge.takeViolations();
      port.postMessage({
        service,
        runner: judge.runner,
        violations,
        ...(since.get(service) ?? { samples: 0, longestBlindMs: 0 }),
      });
      since.set(service, { samples: 0, longestBlindMs: 0 });
    }
    Atomics.wait(pause, 0, 0, pauseMs);
  }
}

/** The watch as its owner has it. */
export class RunWatch {
  readonly #worker = new Worker(fileURLToPath(import.meta.url));
  readonly #waiting: { service: string; resolve: (report: WatchReport) => void }[] = [];

  constructor() {
    this.#worker.on('message', (report: WatchReport) => {
      const at = this.#waiting.findIndex(({ service }) => service === report.service);
      this.#waiting.splice(at, 1)[0]?.resolve(report);
    });
  }

  /** What was seen of a service since the last report on it. */
  async report(service: string): Promise<WatchReport> {
    return await new Promise((resolve) => {
      this.#waiting.push({ service, resolve });
      this.#worker.postMessage(service);
    });
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }
}

if (!isMainThread && parentPort !== null) watch(parentPort);
