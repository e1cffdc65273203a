/** What the agent's API says and is told: schemas and their types, shared by the server and its clients. */
import * as z from 'zod';
import { DeltahopError, errorCatalogue, isDeltahopError } from '../errors.js';
import { digestSchema, layerFormSchema, layerKindSchema, layerNameSchema } from '../layers/layer.js';
import { findingSchema } from '../migrate/offer.js';
import { healthPolicySchema } from '../migrate/ownership.js';

/** A service's name: it also becomes that of a container and of files. */
export const serviceNameSchema = z
  .string()
  .regex(
    /^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/i,
    'a service name is made of letters, digits and -, 32 at the most, and neither begins nor ends with -',
  );

const layerReference = z.string().min(1).max(128);
/** NUL ends a C string: what comes after it would be lost without a word. */
const argument = z
  .string()
  .max(4096)
  .refine((text) => !text.includes('\0'), 'must not contain NUL');

/** Body of every HTTP error, and of the last event of a job that failed. */
export const errorBodySchema = z.object({
  code: z.string().max(64),
  message: z.string().max(16_384),
  remedy: z.string().max(4_096),
});
export type ErrorBody = z.infer<typeof errorBodySchema>;

/** GET /v1/node */
export const nodeReplySchema = z.object({
  name: z.string(),
  version: z.string(),
  pid: z.int(),
  /** `HOST:PORT` of the peer listener. */
  listen: z.string(),
  insecure: z.boolean(),
  drivers: z.array(z.string()),
});
export type NodeReply = z.infer<typeof nodeReplySchema>;

/** POST /v1/layers */
export const layerImportSchema = z.strictObject({
  kind: layerKindSchema,
  name: layerNameSchema,
  parent: layerReference.nullable(),
  /** Absolute: the agent's working directory is not the caller's. */
  path: z.string().max(4096).startsWith('/', 'must be an absolute path'),
});

/** A layer as the API shows it. */
export const layerViewSchema = z.object({
  name: z.string(),
  names: z.array(z.string()),
  digest: digestSchema,
  kind: layerKindSchema,
  form: layerFormSchema,
  parent: digestSchema.nullable(),
  files: z.int().nonnegative(),
  bytes: z.int().nonnegative(),
});
export type LayerView = z.infer<typeof layerViewSchema>;

/** DELETE /v1/layers/REFERENCE */
export const layerRemovalSchema = z.object({ digest: digestSchema, removed: z.enum(['name', 'layer']) });
export type LayerRemoval = z.infer<typeof layerRemovalSchema>;

/** POST /v1/services */
export const serviceAddSchema = z.strictObject({
  name: serviceNameSchema,
  driver: z.string().min(1).max(32),
  base: layerReference,
  app: layerReference,
  settings: z.record(z.string().min(1).max(64), argument),
  command: z.array(argument).max(256),
  health: healthPolicySchema.nullable(),
});
export type ServiceAdd = z.infer<typeof serviceAddSchema>;

/** POST /v1/services/adopt: `reference` is what the driver's own tools call what exists; its app layer gets the service's name. */
export const serviceAdoptSchema = serviceAddSchema
  .omit({ app: true })
  .extend({ reference: z.string().min(1).max(4096) });
export type ServiceAdopt = z.infer<typeof serviceAdoptSchema>;

/** A service as the API shows it. */
export const serviceViewSchema = z.object({
  name: z.string(),
  driver: z.string(),
  base: z.object({ name: z.string(), digest: digestSchema }),
  app: z.object({ name: z.string(), digest: digestSchema }),
  settings: z.record(z.string(), z.string()),
  command: z.array(z.string()),
  health: healthPolicySchema.nullable(),
  epoch: z.int().nonnegative(),
  ownership: z.enum(['owned', 'arriving', 'departed']),
  /** `HOST:PORT` of the node that it went to. */
  movedTo: z.string().nullable(),
  /** `unknown` if its driver could not tell; `problem` says why. */
  state: z.enum(['stopped', 'running', 'frozen', 'unknown']),
  problem: z.string().nullable(),
  /** What its driver has to say of how it runs here, if anything. */
  note: z.string().nullable(),
  pid: z.int().nullable(),
  /** The operation under way, if any. */
  operation: z.string().nullable(),
});
export type ServiceView = z.infer<typeof serviceViewSchema>;

/** POST /v1/services/NAME/migrate */
export const migrateSchema = z.strictObject({
  to: z.string().min(1).max(300),
  /** A program that is run here once the service runs there; null: none. */
  onCommit: z.string().max(4096).startsWith('/', 'must be an absolute path').nullable(),
  /** The service may stand still for so long; then it runs on here. */
  maxDowntimeMs: z.int().positive().max(86_400_000),
  /** It may be slowed down if it changes more than the link carries. */
  autoConverge: z.boolean(),
});
export type MigrateOptions = z.infer<typeof migrateSchema>;

/** POST /v1/services/NAME/dry-run */
export const dryRunRequestSchema = migrateSchema.pick({ to: true, autoConverge: true, onCommit: true });

const rangeSchema = z.object({ low: z.number(), expected: z.number(), high: z.number() });
const shownFinding = findingSchema.extend({ node: z.string() });

/** POST /v1/services/NAME/dry-run */
export const dryRunSchema = z.object({
  type: z.literal('dry-run'),
  service: z.string(),
  from: z.string(),
  to: z.string(),
  possible: z.boolean(),
  findings: z.array(shownFinding),
  wayBack: z.array(findingSchema),
  missingLayers: z.array(z.object({ name: z.string(), digest: digestSchema, bytes: z.number() })),
  instance: z.object({ memoryBytes: z.number(), filesBytes: z.number() }),
  link: z.object({ roundTripMs: z.number(), bytesPerMs: z.number() }),
  forecast: z.object({ bytesSent: rangeSchema, totalMs: rangeSchema.nullable(), downtimeMs: rangeSchema }),
});
export type DryRunView = z.infer<typeof dryRunSchema>;

/** An event of a job; the fields beside `type` are those of its kind. */
export const jobEventSchema = z.looseObject({ type: z.string().min(1).max(64) });
export type StreamedEvent = z.infer<typeof jobEventSchema>;

/** A job as the API shows it. */
export const jobViewSchema = z.object({
  id: z.string(),
  title: z.string(),
  /** `cancelled`: it failed because it was asked to stop; `interrupted`: its agent was killed before it ended. */
  state: z.enum(['running', 'done', 'failed', 'cancelled', 'interrupted']),
  startedAtMs: z.int().nonnegative(),
  /** null while it runs, and if nobody saw it end. */
  endedAtMs: z.int().nonnegative().nullable(),
  /** Its last event; null while it runs. */
  result: jobEventSchema.nullable(),
});
export type JobView = z.infer<typeof jobViewSchema>;

/** One side of a hand-off as the API shows it, from the node's journal. */
export const handOffViewSchema = z.object({
  service: z.string(),
  migration: z.string(),
  side: z.enum(['source', 'destination']),
  /** `HOST:PORT` of the other side. */
  peer: z.string(),
  state: z.string(),
  /** Nothing is left to do on this side. */
  settled: z.boolean(),
  /** What is waited for; empty if settled. */
  waitsFor: z.string(),
  /** What went wrong at the last try, or what was lost on the way; empty if nothing. */
  trouble: z.string(),
});
export type HandOffView = z.infer<typeof handOffViewSchema>;

/** POST /v1/services/NAME/resolve */
export const resolveSchema = z.strictObject({ keep: z.enum(['source', 'destination']) });

/** What a reader is told of an error. What is no DeltahopError is a defect, and its details belong into the log. */
export function errorBody(error: unknown): ErrorBody {
  if (isDeltahopError(error)) return { code: error.code, message: error.message, remedy: error.remedy };
  const reason = error instanceof Error ? error.message : String(error);
  return { code: 'DELTAHOP_E_INTERNAL', message: reason, remedy: errorCatalogue.DELTAHOP_E_INTERNAL.remedy };
}

/** The error that another agent told of. A code that only its version knows becomes DELTAHOP_E_PEER. */
export function errorFromBody({ code, message }: ErrorBody): DeltahopError {
  const known = Object.hasOwn(errorCatalogue, code);
  return known
    ? new DeltahopError(code as keyof typeof errorCatalogue, message)
    : new DeltahopError('DELTAHOP_E_PEER', `${message} [${code}]`);
}

/** The first thing wrong with a value, for people. */
export function firstIssue(error: z.ZodError): string {
  const issue = error.issues[0];
  const where = issue?.path.map(String).join('.') ?? '';
  return `${where === '' ? '' : `${where}: `}${issue?.message ?? 'invalid'}`;
}
