/**
 * What an agent and its transfer workers say to each other over IPC. A worker parses what a hostile peer sends and may one day
 * be its puppet: the agent validates every word of it, and grants step by step.
 */
import * as z from 'zod';
import { DeltahopError, type ErrorCode, errorCatalogue } from '../errors.js';
import { slotName } from '../wire/messages.js';

const errorSchema = z.object({
  code: z.enum(Object.keys(errorCatalogue) as [ErrorCode, ...ErrorCode[]]),
  message: z.string().max(4096),
  sysErrno: z.int().nullable(),
});
const commonSchema = z.array(z.object({ path: z.string(), id: z.string().nullable() }));
const count = z.number().min(0).max(Number.MAX_SAFE_INTEGER);
const countersSchema = z.object({ bytesSent: count, bytesReceived: count });
const direction = z.enum(['send', 'receive']);
const progressSchema = z.object({ doneBytes: count, totalBytes: count, doneFiles: count, totalFiles: count });
const reportSchema = z.object({
  statistics: z.record(z.string().max(64), z.number()),
  notes: z.array(z.string().max(4096)).max(1000),
});
const timesSchema = z.object({
  pingMs: count,
  silenceMs: count,
  handshakeMs: count,
  noProgressMs: count,
  abortMs: count,
});

const moduleSchema = z.object({
  /** As clients call it. */
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/),
  /** Absolute path of its directory. */
  path: z.string(),
  readOnly: z.boolean(),
});
/** A directory that `deltahop serve` offers by name. */
export type SyncModule = z.infer<typeof moduleSchema>;
/** Whether `name` may be a module's. */
export function isModuleName(name: string): boolean {
  return moduleSchema.shape.name.safeParse(name).success;
}

/** Agent to worker. */
export const commandSchema = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('connect'),
    host: z.string(),
    port: z.int(),
    ticket: z.string(),
    connectMs: count,
    times: timesSchema,
  }),
  /** Comes with the accepted socket. */
  z.object({
    type: z.literal('serve'),
    peer: z.string(),
    headBase64: z.string(),
    headBytes: count,
    times: timesSchema,
  }),
  /** Comes with the accepted socket of a sync. */
  z.object({
    type: z.literal('serveSync'),
    peer: z.string(),
    headBase64: z.string(),
    headBytes: count,
    times: timesSchema,
    modules: z.array(moduleSchema),
    /** For what clients want remembered; null: nothing is. */
    memoryPath: z.string().nullable(),
  }),
  z.object({
    type: z.literal('transfer'),
    slot: z.string(),
    direction,
    treePath: z.string(),
    durable: z.boolean(),
    sendOptions: z.object({
      againstPath: z.string().optional(),
      excludeXattrs: z.array(z.string()).optional(),
      verify: z.boolean().optional(),
      lateDigests: z.boolean().optional(),
      allowChanging: z.boolean().optional(),
      zstdLevel: z.int().optional(),
      recordPath: z.string().optional(),
      basis: z.object({ treePath: z.string(), recordPath: z.string() }).optional(),
      common: commonSchema.optional(),
    }),
  }),
  /** Ends the transfer under way; at a server, the connection. */
  z.object({ type: z.literal('cancel') }),
  z.object({ type: z.literal('close') }),
  /** The answers to `hello`, `begin` and `completed` of a server's worker. */
  z.object({
    type: z.literal('allow'),
    slot: z
      .object({
        path: z.string(),
        durable: z.boolean(),
        inPlace: z.boolean().optional(),
        recordPath: z.string().optional(),
        common: commonSchema.optional(),
      })
      .nullable(),
  }),
  z.object({ type: z.literal('refuse'), error: errorSchema }),
]);
export type Command = z.infer<typeof commandSchema>;

/** Worker to agent. */
export const eventSchema = z.discriminatedUnion('type', [
  /** The engine is loaded: the worker may be used. */
  z.object({ type: z.literal('warm'), engine: z.string().max(64) }),
  z.object({ type: z.literal('connected'), counters: countersSchema }),
  z.object({ type: z.literal('hello'), secret: z.string().max(128) }),
  z.object({ type: z.literal('begin'), slot: slotName, direction }),
  /** A client of `deltahop serve` was granted what it wants. */
  z.object({
    type: z.literal('syncOpened'),
    module: z.string().max(128),
    path: z.string().max(4096),
    wants: direction,
  }),
  z.object({ type: z.literal('progress'), slot: slotName, progress: progressSchema, counters: countersSchema }),
  z.object({ type: z.literal('completed'), slot: slotName, report: reportSchema, counters: countersSchema }),
  /** `usable`: the connection is clean again and can serve the next transfer. */
  z.object({
    type: z.literal('failed'),
    slot: slotName,
    error: errorSchema,
    usable: z.boolean(),
    counters: countersSchema,
  }),
  /** The last word: the connection ended, or never came to be. */
  z.object({ type: z.literal('ended'), error: errorSchema.nullable(), counters: countersSchema }),
]);
export type WorkerEvent = z.infer<typeof eventSchema>;

/** Bytes of one connection as its socket counts them. */
export type Counters = z.infer<typeof countersSchema>;

/** An error as it crosses IPC. */
export type ErrorRecord = z.infer<typeof errorSchema>;

/** For IPC: code, message and errno; causes stay behind. */
export function toErrorRecord(error: DeltahopError): ErrorRecord {
  return { code: error.code, message: error.message.slice(0, 4096), sysErrno: error.sysErrno };
}

/** Back from IPC. */
export function fromErrorRecord({ code, message, sysErrno }: ErrorRecord): DeltahopError {
  return new DeltahopError(code, message, sysErrno === null ? {} : { sysErrno });
}
