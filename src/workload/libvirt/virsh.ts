/** libvirt by its own command, virsh: nothing else of it has a stable face that needs no library of this machine's. */
import { DeltahopError } from '../../errors.js';
import { runCommand } from '../command.js';

/** The libvirt of the node itself. */
export const libvirtUri = 'qemu:///system';

/** How a command is run. */
export interface VirshOptions {
  limitMs?: number;
  signal?: AbortSignal;
  /** What a failure is. */
  code?: DeltahopError['code'];
}

const commandLimitMs = 30_000;

/** Runs virsh to its end. @returns what it said. @throws DeltahopError with what it said against it. */
export async function virsh(args: readonly string[], options: VirshOptions = {}): Promise<string> {
  const { limitMs = commandLimitMs, signal, code = 'DELTAHOP_E_WORKLOAD' } = options;
  const argv = ['virsh', '--quiet', '--connect', libvirtUri, ...args];
  const { exitCode, stdout, stderr } = await runCommand(argv, {
    limitMs,
    ...(signal === undefined ? {} : { signal }),
  });
  if (exitCode === 0) return stdout.trim();
  const why = (stderr.trim() || stdout.trim()).split('\n').map((line) => line.replace(/^error: /, ''));
  throw new DeltahopError(code, `libvirt on ${args[0]} ${args[1] ?? ''}: ${why.join('; ').slice(0, 800)}`);
}

/** The state of a domain as libvirt says it, e.g. `running`, `shut off`; null if it knows none of this name. */
export async function domainState(domain: string): Promise<string | null> {
  const argv = ['virsh', '--quiet', '--connect', libvirtUri, 'domstate', domain];
  const { exitCode, stdout, stderr } = await runCommand(argv, { limitMs: commandLimitMs });
  if (exitCode === 0) return stdout.trim();
  if (/failed to get domain|no domain with matching/i.test(stderr)) return null;
  throw new DeltahopError('DELTAHOP_E_WORKLOAD', `libvirt does not answer: ${stderr.trim().slice(0, 500)}`);
}

/** Why a domain is paused, as libvirt says it, e.g. `user`, `I/O error`; null if it is not. */
export async function pauseReason(domain: string): Promise<string | null> {
  const said = await virsh(['domstate', domain, '--reason']);
  return /^paused \((.*)\)$/m.exec(said)?.[1] ?? null;
}
