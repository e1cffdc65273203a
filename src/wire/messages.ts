/** The messages of a data connection (PROTOCOL.md, section 3): JSON in control frames, every size bounded. */
import * as z from 'zod';
import { DeltahopError, type ErrorCode } from '../errors.js';
import { type ControlName, frameHeader, type frameTypes, maxDataPayloadBytes } from './frames.js';

/** First bytes of a data connection: they tell it from the HTTP that shares its port. */
export const preamble = Buffer.from('DHT1', 'ascii');
/** First bytes of a connection for `deltahop sync`: no ticket follows, but `open`. */
export const syncPreamble = Buffer.from('DHS1', 'ascii');
/** Bytes of the ticket's id that follow the preamble. */
export const ticketIdBytes = 16;
/** Everything in front of the first frame: preamble and ticket id, of fixed size so that no parser sees a stranger's bytes. */
export const preludeBytes = preamble.length + ticketIdBytes;

/** The protocol versions that one side speaks, inclusive. */
export interface VersionRange {
  protocol: number;
  minProtocol: number;
}

/** What this build speaks. minProtocol is protocol - 1 once there is a predecessor. */
export const ownVersions: VersionRange = { protocol: 1, minProtocol: 1 };

/**
 * The highest version that both speak.
 * @throws DeltahopError DELTAHOP_E_UNSUPPORTED naming both ranges.
 */
export function negotiateVersion(own: VersionRange, peer: VersionRange): number {
  const version = Math.min(own.protocol, peer.protocol);
  if (version < Math.max(own.minProtocol, peer.minProtocol)) {
    throw new DeltahopError(
      'DELTAHOP_E_UNSUPPORTED',
      `no common protocol version: here ${own.minProtocol} to ${own.protocol}, there ${peer.minProtocol} to ${peer.protocol}`,
    );
  }
  return version;
}

const version = z.int().min(1).max(65535);
const word = z.string().min(1).max(64);
const identity = {
  /** Name and version of the program, for people. */
  software: word,
  /** `native` or `portable`. */
  engine: word,
  /** Formats of engine streams that this side reads and writes, e.g. `tree/1`. */
  formats: z.array(word).min(1).max(32),
  limits: z.object({
    /** The largest payload of a data frame that this side takes, in bytes. */
    maxDataFrameBytes: z.int().min(1024).max(maxDataPayloadBytes),
  }),
};
/** Bounds of what a client may ask of a server's patience. */
export const minSilenceMs = 5000;
export const maxSilenceMs = 3_600_000;
const failure = z.object({ code: z.string().min(1).max(64), message: z.string().max(4096) });
const progress = z.number().min(0).max(Number.MAX_SAFE_INTEGER);

/** A slot's name: it stands for a directory that the ticket's issuer chose. Never a path. */
export const slotName = z.string().regex(/^[a-z0-9][a-z0-9-]{0,127}$/);

/** The name of one entry of a directory. */
export const entryName = z
  .string()
  .min(1)
  .refine((name) => name !== '.' && name !== '..' && !/[/\0]/.test(name), 'not the name of an entry')
  .refine((name) => Buffer.byteLength(name) <= 255, 'longer than 255 bytes');
/** The most that one `changes` message carries, in UTF-16 units: as JSON it fits into a control frame whatever they are. */
export const maxChangesUnits = 8 * 1024;
/** A name that a client makes up for one of its trees, always the same. */
const memoryName = z.string().regex(/^[0-9a-f]{64}$/);
const treeSource = z.object({
  /** What of the source goes over: what is in a directory, the directory itself, or one entry that is no directory. */
  kind: z.enum(['contents', 'directory', 'entry']),
  /** Of the directory or entry; unused for `contents`. */
  name: entryName.nullable(),
});

const schemas = {
  hello: z
    .object({
      protocol: version,
      minProtocol: version,
      ...identity,
      /** The ticket's secret, base64url. */
      secret: z.string().min(16).max(128),
    })
    .refine((hello) => hello.minProtocol <= hello.protocol, 'minProtocol is above protocol'),
  helloReply: z.object({ protocol: version, ...identity }),
  refused: failure,
  begin: z.object({
    slot: slotName,
    /** What the client does: `send` the tree into the slot, or `receive` it from there. */
    direction: z.enum(['send', 'receive']),
    /** Ask for stable storage before the transfer counts as done, whatever the slot says. */
    durable: z.boolean(),
  }),
  ready: z.object({}),
  done: z.object({ error: failure.nullable() }),
  bye: z.object({}),
  ping: z.object({
    id: z.int().min(0),
    /** Bytes that this side's engine has settled so far: a rise counts as progress of the transfer. */
    progress,
  }),
  pong: z.object({ id: z.int().min(0) }),
  open: z
    .object({
      protocol: version,
      minProtocol: version,
      ...identity,
      /** A module of a server; null for the files of the user that the server runs as. */
      module: z.string().min(1).max(128).nullable(),
      /** The source to be received, or where to send to, as the user wrote it. */
      path: z.string().max(4096),
      direction: z.enum(['send', 'receive']),
      /** What the client sends; null if it receives. */
      source: treeSource.nullable(),
      options: z.object({
        deleteOthers: z.boolean(),
        /** If more entries would be deleted, none is; null for no bound. */
        maxDeletes: z.int().min(0).nullable(),
        /** The receiver patches larger files where they lie. */
        inPlace: z.boolean(),
        dryRun: z.boolean(),
        itemize: z.boolean(),
        verify: z.boolean(),
        /** Bound of the server's own sending; null for none. */
        bytesPerSecond: z.int().min(1024).nullable(),
        /** The link is dead when nothing came for so long; null for the usual time. */
        silenceMs: z.int().min(minSilenceMs).max(maxSilenceMs).nullable(),
        /** Keep what the next sync of these two trees can use; a name for the client's tree, or null. */
        remember: memoryName.nullable().default(null),
      }),
    })
    .refine((open) => open.minProtocol <= open.protocol, 'minProtocol is above protocol')
    .refine((open) => (open.source === null) === (open.direction === 'receive'), 'source does not go with direction'),
  opened: z.object({ protocol: version, ...identity, kind: treeSource.shape.kind.nullable() }),
  changes: z.object({ text: z.string().max(maxChangesUnits) }),
  report: z.object({
    statistics: z.record(z.string().max(64), z.number()),
    notes: z.array(z.string().max(512)).max(101),
  }),
} as const satisfies Record<ControlName, z.ZodType>;

/** One message, told apart by `type`. */
export type Message = { [Name in ControlName]: { type: Name } & Fields<z.infer<(typeof schemas)[Name]>> }[ControlName];
/** zod's type of an object without fields forbids `type` as well. */
type Fields<T> = Record<string, never> extends T ? unknown : T;
/** The message of one type. */
export type MessageOf<Name extends ControlName> = Extract<Message, { type: Name }>;

/** A message as a whole frame. */
export function encodeMessage(message: Message): Buffer {
  const { type, ...fields } = message;
  const payload = Buffer.from(JSON.stringify(fields), 'utf8');
  return Buffer.concat([frameHeader(type, payload.length), payload]);
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * The message in a control frame's payload. Unknown fields are dropped, so that a newer peer may add some.
 * @throws DeltahopError DELTAHOP_E_PROTOCOL naming the type and the field.
 */
export function decodeMessage(name: ControlName, payload: Uint8Array): Message {
  let value: unknown;
  try {
    value = JSON.parse(utf8.decode(payload));
  } catch (cause) {
    throw new DeltahopError('DELTAHOP_E_PROTOCOL', `a ${name} message that is not JSON`, { cause });
  }
  const result = schemas[name].safeParse(value);
  if (!result.success) {
    const issue = result.error.issues[0];
    const field = issue === undefined || issue.path.length === 0 ? 'it' : issue.path.map(String).join('.');
    throw new DeltahopError('DELTAHOP_E_PROTOCOL', `a ${name} message in which ${field} is wrong: ${issue?.message}`);
  }
  return { type: name, ...result.data } as Message;
}

/** Whether `name` is the name of a control frame. */
export function isControl(name: keyof typeof frameTypes): name is ControlName {
  return name !== 'data';
}

/**
 * Errors on the wire: our words for them, which outlive a renamed code. Codes that speak of this side's own link, process
 * or user become DELTAHOP_E_PEER over there.
 */
const codesByWire = {
  invalid: 'DELTAHOP_E_INVALID_ARGUMENT',
  io: 'DELTAHOP_E_IO',
  no_space: 'DELTAHOP_E_NO_SPACE',
  not_found: 'DELTAHOP_E_NOT_FOUND',
  corrupt: 'DELTAHOP_E_CORRUPT',
  limit: 'DELTAHOP_E_LIMIT',
  protocol: 'DELTAHOP_E_PROTOCOL',
  unsupported: 'DELTAHOP_E_UNSUPPORTED',
  mismatch: 'DELTAHOP_E_MISMATCH',
  changed: 'DELTAHOP_E_CHANGED',
  unsafe_path: 'DELTAHOP_E_UNSAFE_PATH',
  timeout: 'DELTAHOP_E_TIMEOUT',
  denied: 'DELTAHOP_E_DENIED',
  busy: 'DELTAHOP_E_BUSY',
  native_unavailable: 'DELTAHOP_E_NATIVE_UNAVAILABLE',
  failed: 'DELTAHOP_E_PEER',
} as const satisfies Record<string, ErrorCode>;

const wireByCode = new Map<ErrorCode, string>(Object.entries(codesByWire).map(([wire, code]) => [code, wire]));

/** An error as it crosses the wire. */
export interface WireError {
  code: string;
  message: string;
}

/** Any error in the words of the wire. What is not a DeltahopError is a defect here: the peer only hears that it failed. */
export function toWireError(error: unknown): WireError {
  if (!(error instanceof DeltahopError)) return { code: 'failed', message: 'internal error' };
  return { code: wireByCode.get(error.code) ?? 'failed', message: error.message.slice(0, 1024) };
}

/** A peer's error as one of ours; its words are quoted with control characters escaped. */
export function fromWireError(error: WireError, peer: string): DeltahopError {
  const code = Object.hasOwn(codesByWire, error.code)
    ? codesByWire[error.code as keyof typeof codesByWire]
    : 'DELTAHOP_E_PEER';
  return new DeltahopError(code, `${peer} says: ${printable(error.message).slice(0, 1024)}`);
}

/** `text` with everything that could steer a terminal or forge a log line escaped. */
export function printable(text: string): string {
  return text.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to escape
    /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
