/**
 * Who owns a service, behind the one interface that may know where that is kept: files of the agent by default; a fleet
 * may put it into a consistent store instead.
 */
import * as z from 'zod';
import { DeltahopError } from '../errors.js';

/** How a service shows that it is well after a move, and what happens if it does not. */
export const healthPolicySchema = z.strictObject({
  /** The driver runs it within the service; exit code 0, a connection, or a status below 400 is good. */
  probe: z
    .string()
    .max(1024)
    .regex(
      /^(tcp:\d{1,5}|http:\d{1,5}\/[!-~]*|exec:[^\0]+)$/,
      'a health probe is tcp:PORT, http:PORT/PATH or exec:COMMAND',
    ),
  /** It must have held for so long. */
  forMs: z.int().min(0).max(3_600_000),
  /** By then. */
  limitMs: z.int().min(1).max(3_600_000),
  /** `ask`: both copies' files are kept for the operator; `keep`: the destination has it all the same; `back`: the source. */
  ifFails: z.enum(['ask', 'keep', 'back']),
});
export type HealthPolicy = z.infer<typeof healthPolicySchema>;

/** A service as one node knows it. */
export interface ServiceRecord {
  name: string;
  /** Name of its workload driver. */
  driver: string;
  /** Digest of its base layer. */
  base: string;
  /** Digest of its application layer. */
  app: string;
  /** Driver settings, as given by `--set`. */
  settings: Readonly<Record<string, string>>;
  command: readonly string[];
  /** null: it is well while it runs. */
  health: HealthPolicy | null;
  /** The owner counter: it only rises, by one with each hand-off. */
  epoch: number;
  /**
   * `owned`: this node owns it. `arriving`: a migration to this node is under way, another node owns it.
   * `departed`: another node owns it; what is left here is only a basis that makes its return cheap.
   */
  ownership: 'owned' | 'arriving' | 'departed';
  /** `HOST:PORT` of the node that it went to; null unless departed. */
  movedTo: string | null;
}

/** Reads and changes ownership; every change is on stable storage when its promise resolves. */
export interface Ownership {
  read(service: string): Promise<ServiceRecord | null>;
  /**
   * Writes `next` if the record still has `expectedEpoch` (null: if there is none).
   * @throws DeltahopError DELTAHOP_E_EPOCH if another change came first.
   */
  compareAndSet(service: string, expectedEpoch: number | null, next: ServiceRecord): Promise<void>;
}

/**
 * The record of a service that the node of this name owns.
 * @throws DeltahopError DELTAHOP_E_NOT_FOUND, DELTAHOP_E_OWNED_ELSEWHERE
 */
export async function ownedService(ownership: Ownership, service: string, nodeName: string): Promise<ServiceRecord> {
  const record = await ownership.read(service);
  if (record === null) throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `there is no service ${service} here`);
  if (record.ownership === 'owned') return record;
  const owner = record.movedTo ?? 'another node';
  throw new DeltahopError('DELTAHOP_E_OWNED_ELSEWHERE', `${service} is owned by ${owner}, not by ${nodeName}`);
}
