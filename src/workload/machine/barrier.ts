/**
 * How a machine that is stopped is held until somebody has decided: a supervisor in a process of its own, so that neither
 * the agent's death nor a lost connection leaves it stopped for ever, or lets it run twice. How a machine is
 * resumed and ended its driver knows. Everything else passes through files of the operation's directory, those of verdict.ts and:
 *
 *     kind         freeze or prepare
 *     boot         of which boot of this node it is: the memory of a held machine does not survive one
 *     ended        freeze: QEMU was killed; nothing of it can run here any more
 *     restoring    freeze: QEMU had ended before it was to go on, and is being restored from what was saved
 *     released     prepare: it runs, or is about to, by the agent
 *     released.supervisor   the same, by the supervisor
 *     supervisor   /proc/PID/stat of the supervisor
 *
 * The agent does itself what follows from a verdict, which takes less time; the supervisor does the same once more, which
 * does no harm, and is waited for before anything else is done with the machine.
 */
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Detached, mustRun, startDetached } from '../command.js';
import { killProcess, type ProcessIdentity, parseStat, waitGone } from '../process.js';
import {
  aliveIntervalMs,
  awaitVerdict,
  decide,
  exists,
  propose,
  quote,
  ring,
  verdictOf,
  waitUntil,
} from '../verdict.js';

/** What a machine is held for. */
export type HoldKind = 'freeze' | 'prepare';

/** What the supervisor does with its machine: commands of a shell, in which nothing of a driver's own is defined. */
export interface HoldActions {
  /** Whether its QEMU is there, by the exit code; leaves its number in `pid`. */
  lives: string;
  /** Lets it run; does no harm to one that runs, or is gone. */
  resume: string;
  /** Ends it for good, and comes back once nothing of it can run. */
  end: string;
}

/** Names one boot of this node. */
const bootIdPath = '/proc/sys/kernel/random/boot_id';

/** The supervisor's text. @param savedState Of a freeze: what must be gone before the machine runs on. */
export function supervisorScript(
  operation: string,
  kind: HoldKind,
  { resume, end, lives }: HoldActions,
  savedState: string,
): string {
  return `#!/bin/sh
# Written by deltahop for one operation; see its source, workload/machine/barrier.
trap : HUP INT TERM
cd ${quote(operation)} || exit 1
read -r line </proc/$$/stat && echo "$line" >supervisor
${awaitVerdict}
# Asked without a process of its own, which takes time: before a mark, and after it, which may take long on a busy disk.
still() {
  line=
  read -r line <"/proc/$pid/cmdline"
  [ -n "$line" ]
}
: >held
if await_verdict; then
  ${kind === 'freeze' ? `${end}\n  : >ended` : `if ${lives} && still; then\n  : >released.supervisor\n  if still; then\n  ${resume}\n  else\n  rm released.supervisor\n  fi\n  fi`}
else
  ${kind === 'freeze' ? `if ${lives} && still; then\n  rm -f ${quote(savedState)}\n  ${resume}\n  fi` : end}
fi 2>/dev/null
exit 0
`;
}

/** The barrier of one machine, from the agent's side. */
export class MachineBarrier {
  readonly #directory: string;
  readonly #supervisor: Detached;
  #alive: NodeJS.Timeout;
  #decided = false;

  private constructor(directory: string, supervisor: Detached) {
    this.#directory = directory;
    this.#supervisor = supervisor;
    this.#alive = setInterval(() => void ring(directory), aliveIntervalMs);
    this.#alive.unref();
  }

  /** Starts the supervisor and waits until it holds. To be done before the machine is stopped. */
  static async start(
    directory: string,
    kind: HoldKind,
    actions: HoldActions,
    savedState: string,
    limitMs: number,
  ): Promise<MachineBarrier> {
    const at = (name: string): string => join(directory, name);
    await mkdir(directory, { mode: 0o700 });
    await Promise.all([
      writeFile(at('kind'), kind),
      readFile(bootIdPath).then((boot) => writeFile(at('boot'), boot)),
      // Now, since at the decision the disk may be full.
      propose(directory, 'commit'),
      propose(directory, 'abort'),
      writeFile(at('supervise'), supervisorScript(directory, kind, actions, savedState), { mode: 0o700 }),
      mustRun(['mkfifo', '-m', '600', at('bell')], { limitMs, code: 'DELTAHOP_E_IO' }),
    ]);
    const output = await open(at('output'), 'a');
    try {
      const barrier = new MachineBarrier(directory, await startDetached(['/bin/sh', at('supervise')], output.fd, {}));
      await waitUntil(directory, limitMs, undefined, async () =>
        (await exists(at('held'))) ? true : barrier.#supervisor.hasEnded() ? false : null,
      );
      return barrier;
    } finally {
      await output.close();
    }
  }

  /** Gives the verdict. @returns the one that holds: the supervisor may have lost patience before. */
  async decide(verdict: 'commit' | 'abort'): Promise<'commit' | 'abort'> {
    clearInterval(this.#alive);
    this.#decided = true;
    return await decide(this.#directory, verdict);
  }

  /** Marks what was done upon the verdict, in one more way to tell than the supervisor's own. */
  async mark(what: 'released'): Promise<void> {
    await writeFile(join(this.#directory, what), '');
  }

  /** Takes back a mark of this agent's upon which nothing was done. */
  async unmark(what: 'released'): Promise<void> {
    await rm(join(this.#directory, what), { force: true });
  }

  /** Fulfilled once the supervisor has decided though nobody here has; never, if somebody did. */
  async gaveWay(): Promise<void> {
    await this.#supervisor.ended;
    // One that was killed says nothing: the verdict is still the agent's to give.
    if (this.#decided || (await verdictOf(this.#directory)) !== 'abort') await new Promise(() => {});
  }

  /** Fulfilled when the supervisor has ended; it is killed if that takes too long. */
  async ended(limitMs: number): Promise<void> {
    clearInterval(this.#alive);
    const timer = setTimeout(() => this.#supervisor.kill(), limitMs);
    await this.#supervisor.ended;
    clearTimeout(timer);
  }
}

/** What an operation left in its directory, for recovery. */
export interface HoldRemnant {
  kind: HoldKind;
  verdict: 'commit' | 'abort' | null;
  released: boolean;
  supervisor: ProcessIdentity | null;
}

/** Whether the operation was begun since this node has booted. */
export async function isOfThisBoot(directory: string): Promise<boolean> {
  const boots = [join(directory, 'boot'), bootIdPath].map((path) => readFile(path, 'utf8').catch(() => null));
  const [then, now] = await Promise.all(boots);
  return then !== null && then === now;
}

/** Reads what an operation left; null if there is none. */
export async function readHold(directory: string): Promise<HoldRemnant | null> {
  const kind = await readFile(join(directory, 'kind'), 'utf8').catch(() => null);
  if (kind === null) return null;
  return {
    kind: kind === 'freeze' ? 'freeze' : 'prepare',
    verdict: await verdictOf(directory),
    released: (await exists(join(directory, 'released'))) || (await exists(join(directory, 'released.supervisor'))),
    supervisor: parseStat(await readFile(join(directory, 'supervisor'), 'utf8').catch(() => '')),
  };
}

/** Waits until the supervisor of an operation that has its verdict has ended, and ends it if that takes longer. */
export async function endHold(remnant: HoldRemnant, limitMs: number): Promise<void> {
  if (remnant.supervisor === null || (await waitGone(remnant.supervisor, limitMs))) return;
  killProcess(-remnant.supervisor.pid);
  await sleep(20);
}
