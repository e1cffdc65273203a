/** What source and destination of a migration say to each other over the control API: schemas and their types. */
import * as z from 'zod';
import { layerFormSchema, layerKindSchema } from '../layers/layer.js';
import { healthPolicySchema } from './ownership.js';

const digest = z.string().regex(/^blake3:[0-9a-f]{64}$/);
const serviceName = z.string().regex(/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/i);

/** A layer that the service needs, as the source's store describes it. */
export const offeredLayerSchema = z.object({
  kind: layerKindSchema,
  form: layerFormSchema,
  name: z.string().min(1).max(128),
  digest,
  parent: digest.nullable(),
  bytes: z.number().int().nonnegative(),
});
export type OfferedLayer = z.infer<typeof offeredLayerSchema>;

/** The first message of a migration: what would come, and from whom. */
export const offerSchema = z.object({
  /** Chosen by the source; the same for every try of one migration. */
  migration: z.uuid(),
  sourceName: z.string().min(1).max(64),
  /** `HOST:PORT` where the destination can ask the source what was decided. */
  sourceAddress: z.string().min(1).max(300),
  service: z.object({
    name: serviceName,
    driver: z.string().min(1).max(32),
    // A setting can be the description of a whole machine.
    settings: z.record(z.string().max(64), z.string().max(32_768)),
    command: z.array(z.string().max(4096)).max(256),
    health: healthPolicySchema.nullable(),
    epoch: z.number().int().nonnegative(),
  }),
  layers: z.array(offeredLayerSchema).min(1).max(16),
  /** What the source's machine is like; the driver knows what it means. */
  machine: z.record(z.string().max(32), z.string().max(4096)),
  /** What the running service would bring along, as far as can be seen from outside. */
  instance: z.object({ memoryBytes: z.number().nonnegative(), filesBytes: z.number().nonnegative() }),
});
export type Offer = z.infer<typeof offerSchema>;

/** One thing that was looked at before anything moves. */
export const findingSchema = z.object({
  name: z.string().max(64),
  ok: z.boolean(),
  detail: z.string().max(4096),
  /** What to do if it is not ok. */
  remedy: z.string().max(4096).nullable(),
});
export type Finding = z.infer<typeof findingSchema>;

/** The destination's answer to a look at an offer: nothing was taken or promised. */
export const examinationSchema = z.object({
  destinationName: z.string().max(64),
  missingLayers: z.array(digest),
  findings: z.array(findingSchema),
  /** An earlier instance of the service is here, which makes its way here cheap. */
  returning: z.boolean(),
  machine: offerSchema.shape.machine,
});
export type Examination = z.infer<typeof examinationSchema>;

/** The destination's answer to an offer that it accepts; a refusal is an HTTP error with a code of the catalogue. */
export const offerReplySchema = z.object({
  destinationName: z.string(),
  /** Lets the source's workers open data connections for the slots of this migration. */
  ticket: z.string().min(16).max(256),
  /** Digests of the layers that the destination lacks, in the order in which it wants them. */
  missingLayers: z.array(digest),
  /** As in {@link examinationSchema}. */
  returning: z.boolean(),
});
export type OfferReply = z.infer<typeof offerReplySchema>;

/** What has still to arrive before a service can be restored: names of slots. */
export const arrivalSchema = z.strictObject({ slots: z.array(z.string().max(128)).min(1).max(16) });

const milliseconds = z.number().nonnegative();

/** The destination's answer once the service is held there. */
export const prepareReplySchema = z.object({
  /** From the question to the answer, or from the last arrival that it waited for. */
  tookMs: milliseconds,
  /** Of that, the restoring program's own time. */
  restorerMs: milliseconds,
});
export type PrepareReply = z.infer<typeof prepareReplySchema>;

/** The destination's answer once the service runs there. */
export const commitReplySchema = z.object({
  /** From the first question to its first instruction. */
  tookMs: milliseconds,
  /** How long the service had been running when this answer was sent. */
  runningForMs: milliseconds,
  epoch: z.number().int().positive(),
});
export type CommitReply = z.infer<typeof commitReplySchema>;

/** The destination's answer to a look at the service's health. */
export const healthReplySchema = z.object({ healthy: z.boolean(), detail: z.string() });
export type HealthReply = z.infer<typeof healthReplySchema>;

/** What the source has decided: `undecided` while it may still become either. */
export const verdictSchema = z.enum(['commit', 'abort', 'undecided']);
export type Verdict = z.infer<typeof verdictSchema>;

/** The source's answer to a destination that asks. */
export const verdictReplySchema = z.object({
  verdict: verdictSchema,
  /** Who answers: another node at the same address knows nothing of the migration, and its word counts for nothing. */
  nodeName: z.string().max(64),
});
export type VerdictReply = z.infer<typeof verdictReplySchema>;

/** Something of a length, to see how long it takes; what it says does not matter. */
export const pingSchema = z.strictObject({ padding: z.string().max(1_000_000) });

/** An operator has decided for the node that says so. */
export const cedeSchema = z.strictObject({ epoch: z.int().positive() });

/** Name of the slot into which a layer is sent. */
export function layerSlot(layerDigest: string): string {
  return `layer-${layerDigest.replace(/^blake3:/, '')}`;
}

/** Name of the slot into which a part of the instance is sent. */
export function instanceSlot(treeName: string): string {
  return `instance-${treeName}`;
}

/** The destination's side as the source calls it; an HTTP client in the agent, or an {@link IncomingMigrations} itself. */
export interface DestinationControl {
  offer(offer: Offer): Promise<OfferReply>;
  /** What would stand against an offer, and what it would need. Changes nothing. */
  examine(offer: Offer): Promise<Examination>;
  /** Everything of a layer was sent: verify its digest and take it into the store. */
  sealLayer(migration: string, layerDigest: string): Promise<void>;
  /**
   * Everything of the instance but its memory was sent: do what of {@link prepare} needs no memory. To be called again if
   * files were sent after it; not needed before {@link prepare}.
   */
  arrange(migration: string): Promise<void>;
  /**
   * The same as soon as each of these slots has been received once more, which saves the question's way. Answered at once,
   * and only a help: what arrives before this is heard does not count, and nobody hears of what fails.
   */
  arrangeOnArrival(migration: string, slots: readonly string[]): Promise<void>;
  /** Everything of the instance was sent: restore it and hold it at the barrier. */
  prepare(migration: string): Promise<PrepareReply>;
  /**
   * The same as {@link prepare} as soon as each of these slots has been received once more. Only a help: {@link prepare} is to be
   * asked all the same, as what arrives before this is heard does not count.
   */
  prepareOnArrival(migration: string, slots: readonly string[]): Promise<PrepareReply>;
  /** The source has given the service up: run it. Idempotent. */
  commit(migration: string): Promise<CommitReply>;
  /** Nothing will come of it: discard what was prepared. What was received stays for the next try. Idempotent. */
  abort(migration: string): Promise<void>;
  health(migration: string): Promise<HealthReply>;
}

/** What either side of a migration can say to the other after the fact. */
export interface PeerControl {
  /** Asked by a destination: whether the source has given the service up. */
  verdict(migration: string): Promise<VerdictReply>;
  /** Said by the side that an operator chose: it owns the service at this epoch, so the other side gives it up. Idempotent. */
  cede(migration: string, epoch: number): Promise<void>;
}
