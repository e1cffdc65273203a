/** What can be known before anything is moved or stopped: refuse early, by name. */
import { DeltahopError } from '../errors.js';
import type { Capability, Workload, WorkloadDriver } from '../workload/driver.js';

/**
 * Refuses if this node can not checkpoint the service, or the service has something that can not be moved.
 * @throws DeltahopError DELTAHOP_E_PREFLIGHT naming every obstacle and its way out; DELTAHOP_E_NOT_RUNNING.
 */
export async function refuseObstacles(driver: WorkloadDriver, workload: Workload, nodeName: string): Promise<void> {
  const { state } = await driver.inspect(workload);
  if (state !== 'running') {
    throw new DeltahopError(
      'DELTAHOP_E_NOT_RUNNING',
      `${workload.name} is ${state} on ${nodeName}; only a running service moves`,
    );
  }
  const found = [...(await driver.capabilities()), ...(await driver.obstacles(workload))];
  refuseFound(found, `${workload.name} can not leave ${nodeName}`);
}

/**
 * Refuses if this node lacks something that services of this driver need.
 * @throws DeltahopError DELTAHOP_E_PREFLIGHT naming everything that is lacking and its way out.
 */
export async function refuseWhatIsLacking(driver: WorkloadDriver, nodeName: string): Promise<void> {
  refuseFound(await driver.capabilities(), `${nodeName} can not run ${driver.name} services`);
}

function refuseFound(found: readonly Capability[], refusal: string): void {
  const reasons = found
    .filter(({ ok }) => !ok)
    .map(({ name, detail, remedy }) => `${name}: ${detail}${remedy === null ? '' : ` (${remedy})`}`);
  if (reasons.length > 0) throw new DeltahopError('DELTAHOP_E_PREFLIGHT', `${refusal}: ${reasons.join('; ')}`);
}
