/** The engine in C++, over the addon. */
import { createReadStream } from 'node:fs';
import type { Duplex, Readable } from 'node:stream';
import { DeltahopError } from '../errors.js';
import type { Addon, JobReport } from './addon.js';
import { runJob, runJobOverDuplex, type StartJob } from './job-stream.js';
import { loadAddon } from './loader.js';
import type {
  CommonFile,
  DeltaOptions,
  Engine,
  Found,
  OperationOptions,
  OperationReport,
  ReceiveOptions,
  SendOptions,
  SignatureOptions,
  Sink,
  Source,
  TreeDigest,
} from './operations.js';
import { writePrivately } from './private-file.js';
import { readWhole } from './whole-source.js';

const defaultZstdLevel = 3;
/** 2^20 blocks of 12 bytes and what is around them fit several times (native/FORMATS.md, section 2). */
const maxSignatureBytes = 64 * 1024 * 1024;
const readBytes = 256 * 1024;

/** A path goes to the job, which opens it itself; a stream becomes the job's input. */
function toInput(source: Source): { path: string | null; stream: Readable | null } {
  return typeof source === 'string' ? { path: source, stream: null } : { path: null, stream: source };
}

function commonOf(files: readonly CommonFile[] = []): { commonPaths: string[]; commonIds: string[] } {
  return { commonPaths: files.map(({ path }) => path), commonIds: files.map(({ id }) => id ?? '') };
}

function toReport({ statistics, notes }: JobReport): OperationReport {
  return { statistics, notes };
}

async function runInto(start: StartJob, source: Readable | null, output: Sink, options: OperationOptions) {
  if (typeof output !== 'string') return toReport(await runJob(start, { source, sink: output }, options));
  return toReport(await writePrivately(output, (sink) => runJob(start, { source, sink }, options)));
}

class NativeEngine implements Engine {
  readonly name = 'native';

  constructor(private readonly addon: Addon) {}

  async signature(basis: Source, output: Sink, options: SignatureOptions = {}): Promise<OperationReport> {
    const { path, stream } = toInput(basis);
    const jobOptions = { basisPath: path, blockBytes: options.blockBytes ?? 0 };
    return await runInto((listener) => this.addon.signatureJob(jobOptions, listener), stream, output, options);
  }

  async delta(signature: Source, target: Source, output: Sink, options: DeltaOptions = {}): Promise<OperationReport> {
    const { path, stream } = toInput(target);
    const jobOptions = {
      signature: await readWhole(signature, maxSignatureBytes, 'the signature', options),
      targetPath: path,
      zstdLevel: options.zstdLevel ?? defaultZstdLevel,
    };
    return await runInto((listener) => this.addon.deltaJob(jobOptions, listener), stream, output, options);
  }

  async patch(basis: string, delta: Source, output: Sink, options: OperationOptions = {}): Promise<OperationReport> {
    const source = typeof delta === 'string' ? createReadStream(delta, { highWaterMark: readBytes }) : delta;
    // The job itself writes a path: it verifies before it renames.
    const toPath = typeof output === 'string';
    const jobOptions = { basisPath: basis, outputPath: toPath ? output : null };
    const streams = { source, sink: toPath ? null : output };
    return toReport(await runJob((listener) => this.addon.patchJob(jobOptions, listener), streams, options));
  }

  async send(treePath: string, stream: Duplex, options: SendOptions = {}): Promise<OperationReport> {
    const jobOptions = {
      rootPath: treePath,
      beneath: options.beneath ?? '',
      entryName: options.entryName ?? null,
      againstPath: options.againstPath ?? null,
      excludeXattrs: [...(options.excludeXattrs ?? [])],
      verify: options.verify ?? false,
      lateDigests: options.lateDigests ?? false,
      allowChanging: options.allowChanging ?? false,
      zstdLevel: options.zstdLevel ?? defaultZstdLevel,
      recordPath: options.recordPath ?? null,
      basisTreePath: options.basis?.treePath ?? null,
      basisRecordPath: options.basis?.recordPath ?? null,
      ...commonOf(options.common),
    };
    const start: StartJob = (listener) => this.addon.sendJob(jobOptions, listener);
    return toReport(await runJobOverDuplex(start, stream, options));
  }

  async receive(treePath: string, stream: Duplex, options: ReceiveOptions = {}): Promise<OperationReport> {
    const jobOptions = {
      rootPath: treePath,
      beneath: options.beneath ?? '',
      entryName: options.entryName ?? null,
      durable: options.durable ?? false,
      deleteOthers: options.deleteOthers ?? true,
      maxDeletes: options.maxDeletes ?? Number.MAX_SAFE_INTEGER,
      inPlace: options.inPlace ?? false,
      dryRun: options.dryRun ?? false,
      itemize: options.itemize ?? false,
      recordPath: options.recordPath ?? null,
      ...commonOf(options.common),
    };
    const start: StartJob = (listener) => this.addon.receiveJob(jobOptions, listener);
    const report = await runJobOverDuplex(start, stream, options);
    return jobOptions.itemize ? { ...toReport(report), items: report.text } : toReport(report);
  }

  async treeDigest(
    treePath: string,
    options: OperationOptions & { excludeXattrs?: readonly string[] } = {},
  ): Promise<TreeDigest> {
    const jobOptions = { rootPath: treePath, excludeXattrs: [...(options.excludeXattrs ?? [])] };
    const start: StartJob = (listener) => this.addon.treeDigestJob(jobOptions, listener);
    const { text, statistics } = await runJob(start, { source: null, sink: null }, options);
    return { digest: text, files: statistics['files'] ?? 0, bytes: statistics['bytes'] ?? 0 };
  }

  lookUp(rootPath: string, beneath: string): Found {
    const { found, error } = this.addon.lookUp({ rootPath, beneath });
    if (found !== null) return found;
    throw new DeltahopError(
      error?.code ?? 'DELTAHOP_E_IO',
      error?.message ?? `cannot look up ${beneath}`,
      error === null || error.sysErrno === null ? {} : { sysErrno: error.sysErrno },
    );
  }

  digest(bytes: Uint8Array): string {
    return this.addon.digest(bytes);
  }
}

let engine: NativeEngine | null = null;

/**
 * The engine over the addon, loaded at the first call.
 * @throws DeltahopError DELTAHOP_E_NATIVE_UNAVAILABLE
 */
export function nativeEngine(): Engine {
  engine ??= new NativeEngine(loadAddon().addon);
  return engine;
}
