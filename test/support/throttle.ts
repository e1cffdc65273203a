/** Whether machines can be slowed down here. */
import { tryThrottle } from '../../src/workload/machine/throttle.js';

/** Why the threads of a process cannot be given a quota on this machine; null if they can. */
export async function throttleUnavailable(): Promise<string | null> {
  if (process.geteuid?.() !== 0) return 'cgroups need root';
  return await tryThrottle(process.pid, process.pid).then(
    () => null,
    (error: unknown) => `no quota for processors here: ${(error as Error).message}`,
  );
}
