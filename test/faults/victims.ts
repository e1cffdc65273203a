/** The processes of a node that take part in a migration, found by what they are called with. */
import { join } from 'node:path';
import { list, read, target } from '../support/volatile-files.js';
import { processStartTime } from '../testbed/remnants.js';

/**
 * `barrier` is the action script that CRIU waits for, `supervisor` the parent of CRIU (a dump) or of
 * lxc-checkpoint (a restore), or what holds a virtual machine, which is `qemu`.
 */
export type Victim = 'worker' | 'criu' | 'lxc-checkpoint' | 'supervisor' | 'barrier' | 'qemu';

/** A process that is told from a later one of its number. */
export interface FoundProcess {
  pid: number;
  startTime: string;
}

/** Whether that very process is still there, dead but unburied ones not counted. */
export function isThere({ pid, startTime }: FoundProcess): boolean {
  return processStartTime(pid) === startTime;
}

/** What a node is to a search: where its agent keeps its things, and where the service is beneath that. */
export interface VictimPlace {
  stateDirectory: string;
  service: string;
}

/** The processes of that kind that are there now. */
export function findVictims(victim: Victim, { stateDirectory, service }: VictimPlace): FoundProcess[] {
  const workload = join(stateDirectory, 'services', service, 'workload');
  const found: FoundProcess[] = [];
  for (const entry of list('/proc')) {
    const pid = Number(entry);
    if (!Number.isInteger(pid)) continue;
    const argv = read(`/proc/${entry}/cmdline`).split('\0');
    if (!isOne(victim, entry, argv, stateDirectory, workload)) continue;
    const startTime = processStartTime(pid);
    if (startTime !== undefined) found.push({ pid, startTime });
  }
  return found;
}

function isOne(victim: Victim, pid: string, argv: string[], stateDirectory: string, workload: string): boolean {
  const line = argv.join(' ');
  switch (victim) {
    case 'worker':
      // The spare one holds its two pipes to the agent and no connection.
      return (
        line.includes('/worker.js') &&
        read(`/proc/${pid}/environ`).includes(`DELTAHOP_STATE=${stateDirectory}\0`) &&
        socketsOf(pid) > 2
      );
    case 'criu':
      return (
        line.includes(`${workload}/`) &&
        (argv.includes('dump') || argv.includes('restore')) &&
        argv.some((word) => word.endsWith('action')) &&
        // CRIU's own children have its arguments too. A dump's is the supervisor.
        ['sh', 'lxc-checkpoint'].includes(parentName(pid))
      );
    case 'lxc-checkpoint':
      return argv[0] === 'lxc-checkpoint' && line.includes(`${workload}/`) && parentName(pid) === 'sh';
    case 'supervisor':
      return argv.includes(`${workload}/operation/supervise`);
    case 'qemu':
      return argv[argv.indexOf('-pidfile') + 1] === `${workload}/machine/pid`;
    case 'barrier':
      return argv[0] === '/bin/sh' && argv[1] === `${workload}/operation/action`;
  }
}

function parentName(pid: string): string {
  const stat = read(`/proc/${pid}/stat`);
  const parent = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1] ?? '';
  return read(`/proc/${parent}/comm`).trim();
}

function socketsOf(pid: string): number {
  let sockets = 0;
  for (const fd of list(`/proc/${pid}/fd`)) if (target(`/proc/${pid}/fd/${fd}`).startsWith('socket:')) sockets++;
  return sockets;
}
