/** What can be known before anything is moved or stopped: refuse early, by name. */
import { access, constants, readFile } from 'node:fs/promises';
import { DeltahopError } from '../errors.js';
import type { Workload, WorkloadDriver } from '../workload/driver.js';
import type { Finding } from './offer.js';

/** What a migration's order asks of its source. */
export interface Departure {
  /** It may have to be slowed down. */
  autoConverge: boolean;
  /** Absolute path of a program that has to be run here; null: none. */
  onCommit: string | null;
}

/** Everything at the source that speaks for or against a service's leaving. Looks only. */
export async function examineSource(
  driver: WorkloadDriver,
  workload: Workload,
  nodeName: string,
  { autoConverge, onCommit }: Departure,
): Promise<Finding[]> {
  const { state } = await driver.inspect(workload);
  const running: Finding = {
    name: 'running',
    ok: state === 'running',
    detail: `${workload.name} is ${state} on ${nodeName}`,
    remedy: state === 'running' ? null : 'start it; what does not run can be added and started at the other node',
  };
  const [capabilities, obstacles, throttling] = await Promise.all([
    driver.capabilities(),
    state === 'running' ? driver.obstacles(workload) : [],
    state === 'running' && autoConverge ? [await driver.throttling(workload)] : [],
  ]);
  const hooks = onCommit === null ? [] : [await hookFinding(onCommit)];
  return [running, ...capabilities, ...obstacles, ...throttling, ...hooks];
}

/** Whether the program can be run: that it can not is better known before the service has moved. */
async function hookFinding(program: string): Promise<Finding> {
  const ok = await access(program, constants.X_OK).then(
    () => true,
    () => false,
  );
  const detail = `${program} ${ok ? 'can' : 'can not'} be run`;
  return { name: 'hook', ok, detail, remedy: ok ? null : 'give --on-commit a program that is there and executable' };
}

/**
 * @throws DeltahopError DELTAHOP_E_PREFLIGHT naming everything that is not ok and its way out, DELTAHOP_E_NOT_RUNNING if
 *   the service does not run, DELTAHOP_E_NO_SPACE if it is only space that lacks.
 */
export function refuseFindings(findings: readonly Finding[], refusal: string): void {
  const bad = findings.filter(({ ok }) => !ok);
  if (bad.length === 0) return;
  const reasons = bad.map(({ name, detail, remedy }) => `${name}: ${detail}${remedy === null ? '' : ` (${remedy})`}`);
  const names = bad.map(({ name }) => name);
  const code = names.includes('running')
    ? 'DELTAHOP_E_NOT_RUNNING'
    : names.every((name) => name === 'space')
      ? 'DELTAHOP_E_NO_SPACE'
      : 'DELTAHOP_E_PREFLIGHT';
  throw new DeltahopError(code, `${refusal}: ${reasons.join('; ')}`);
}

/** Whether so much is free: `space` on a disk, `memory` for processes. */
export function roomFinding(name: 'space' | 'memory', where: string, freeBytes: number, neededBytes: number): Finding {
  const ok = freeBytes >= neededBytes;
  const mib = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;
  const what = name === 'space' ? 'of disk' : 'of memory';
  return {
    name,
    ok,
    detail: `${where} has ${mib(freeBytes)} ${what} free and needs ${mib(neededBytes)}`,
    remedy: ok ? null : name === 'space' ? 'free space there' : 'stop something there, or move it to a larger node',
  };
}

/** What programs can still have without swapping, as the kernel estimates it (proc(5), MemAvailable). */
export async function availableMemoryBytes(): Promise<number> {
  const text = await readFile('/proc/meminfo', 'utf8');
  return Number(/^MemAvailable:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) * 1024;
}
