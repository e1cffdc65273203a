/**
 * The native surface, declared here and nowhere else. Nothing is optional across this border: every property is set,
 * null where there is no value, so a missing one is always a bug (bindings/options.cc refuses it).
 */
import type { ErrorCode } from '../errors.js';
import type { Found, Progress } from './operations.js';

/** What a job that ended well leaves. */
export interface JobReport {
  statistics: Record<string, number>;
  notes: string[];
  /** The job's answer where it has one: a digest. */
  text: string;
}

/** How a job that ended badly says so. */
export interface JobFailure {
  code: ErrorCode;
  message: string;
  sysErrno: number | null;
}

/** Told of a job's events, each kind at most once per turn; the last is `finished` or `failed`. */
export type JobListener = (
  ...event:
    | [kind: 'output' | 'drain', value: null]
    | [kind: 'progress', value: Progress]
    | [kind: 'finished', value: JobReport]
    | [kind: 'failed', value: JobFailure]
) => void;

/** A running job of the engine: bytes in, bytes out. It keeps the event loop alive until it has finished. */
export interface Job {
  /** False: taken, but the next is better kept until `drain`. */
  write(bytes: Uint8Array): boolean;
  endInput(): void;
  /** The next piece of output, null if there is none now; after `output`, read until null. */
  read(): Buffer | null;
  /** All output was produced and read. */
  outputEnded(): boolean;
  /** After the end: input that was given and never read, piece by piece. */
  unreadInput(): Buffer | null;
  /** Ends it soon with DELTAHOP_E_CANCELLED. */
  cancel(): void;
  /** After the last event: lets go of the files and the memory that it holds. Nothing can be read of it any more. */
  close(): void;
}

/** The addon's exports. */
export interface Addon {
  readonly abiVersion: number;
  /** Every code that a job can end with. */
  readonly errorCodes: string[];
  /** Sets of inner loops by the instructions that they need: the one in use, and all that this machine can run. */
  readonly kernels: { inUse: string; available: string[] };
  /** `blake3:<64 hex digits>` of bytes in memory. */
  digest(bytes: Uint8Array): string;
  /** What is at the path `beneath` of the directory at `rootPath`; one of the two is null. */
  lookUp(options: { rootPath: string; beneath: string }): { found: Found | null; error: JobFailure | null };
  /** Without a path the basis is the input. Block bytes 0: chosen by size. */
  signatureJob(options: { basisPath: string | null; blockBytes: number }, listener: JobListener): Job;
  /** Without a path the target is the input. */
  deltaJob(
    options: { signature: Uint8Array; targetPath: string | null; zstdLevel: number },
    listener: JobListener,
  ): Job;
  /** The delta is the input; without an output path the target is the output. */
  patchJob(options: { basisPath: string; outputPath: string | null }, listener: JobListener): Job;
  /** Input and output are the connection to a receive job. */
  sendJob(
    options: {
      rootPath: string;
      beneath: string;
      entryName: string | null;
      againstPath: string | null;
      excludeXattrs: string[];
      verify: boolean;
      lateDigests: boolean;
      allowChanging: boolean;
      zstdLevel: number;
      recordPath: string | null;
      /** Both or neither. */
      basisTreePath: string | null;
      basisRecordPath: string | null;
      /** As many digests as paths; empty where there is none. */
      commonPaths: string[];
      commonIds: string[];
    },
    listener: JobListener,
  ): Job;
  receiveJob(
    options: {
      rootPath: string;
      beneath: string;
      entryName: string | null;
      durable: boolean;
      deleteOthers: boolean;
      maxDeletes: number;
      inPlace: boolean;
      dryRun: boolean;
      itemize: boolean;
      recordPath: string | null;
      commonPaths: string[];
      commonIds: string[];
    },
    listener: JobListener,
  ): Job;
  /** No input, no output; the report's text is the digest, its statistics have `files` and `bytes`. */
  treeDigestJob(options: { rootPath: string; excludeXattrs: string[] }, listener: JobListener): Job;
}
