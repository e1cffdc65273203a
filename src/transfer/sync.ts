/**
 * One sync: an engine's sender and receiver, face to face or with a connection between them. The client's half and the
 * server's half of `deltahop sync` (PROTOCOL.md, section 7).
 */
import { realpath } from 'node:fs/promises';
import type { Duplex } from 'node:stream';
import type { Engine, OperationOptions, OperationReport } from '../engine/engine.js';
import { DeltahopError } from '../errors.js';
import type { TransportStream } from '../transport/stream.js';
import { throttled } from '../transport/throttle.js';
import {
  type Message,
  type MessageOf,
  maxChangesUnits,
  negotiateVersion,
  ownVersions,
  printable,
  syncPreamble,
} from '../wire/messages.js';
import { faceToFace } from './face-to-face.js';
import { Link } from './link.js';
import {
  asDeltahopError,
  type Direction,
  defaultSessionTimes,
  identity,
  requireCommonFormat,
  runTransfer,
  type SessionTimes,
} from './session.js';
import { memoryName, type ReceiverMemory, type SenderMemory, type SyncMemory } from './sync-memory.js';
import { type SourceShape, type SyncFiles, type SyncPlace, shapeOf, UserFiles } from './sync-place.js';

/** What a sync is to do. */
export interface SyncOptions {
  /** What the source lacks goes at the target. */
  deleteOthers: boolean;
  /** If more entries would be deleted, none is; null for no bound. */
  maxDeletes: number | null;
  /** Nobody uses the target meanwhile: larger files are patched where they lie. */
  inPlace: boolean;
  /** Nothing is written. */
  dryRun: boolean;
  /** List the changes. */
  itemize: boolean;
  /** Contents are compared by digest, not by size and time. */
  verify: boolean;
  /** Everything is on stable storage before it counts as done. */
  durable: boolean;
  /** Bound of each side's sending; null for none. */
  bytesPerSecond: number | null;
  /** The link is dead when nothing came for so long; null for the usual time. */
  silenceMs: number | null;
}

/** How a sync is run. */
export interface SyncOperation extends OperationOptions {
  times?: SessionTimes;
  /** Where this side keeps what makes the next sync cheaper, and finds what it kept; nothing is kept without. */
  memory?: SyncMemory;
}

/** How a sync ended. */
export interface SyncReport {
  sender: OperationReport;
  receiver: OperationReport;
  /** What went over. */
  shape: SourceShape;
  /** Lines as native/tree/itemize.h says; empty unless asked for. */
  items: string;
  /** False if something of the source could not be read or made at the target; the notes say what. */
  isComplete: boolean;
  /** Bytes on the connection; between two local directories, bytes between the two engines. */
  bytesSent: number;
  bytesReceived: number;
}

/** The client's view of a sync with a peer. */
export interface PeerSync {
  /** What the client does. */
  direction: Direction;
  localPath: string;
  /** A module of a server, or null for a peer that serves its user's files. */
  module: string | null;
  remotePath: string;
}

/** Both sides are alive, or the link would have ended: a tree of millions of files may take its time to be read. */
const syncNoProgressMs = 30 * 60 * 1000;
/** The times of a sync's connection. */
export const syncTimes: SessionTimes = { ...defaultSessionTimes, noProgressMs: syncNoProgressMs };
/** A program that ssh starts greets as soon as it runs; before that the user may be asked for a password. */
const greetingMs = 5 * 60 * 1000;
const maxItemsUnits = 64 * 1024 * 1024;
const maxReportBytes = 48 * 1024;

/**
 * Between two paths of this machine.
 * @throws DeltahopError what the engine or a path says; DELTAHOP_E_INVALID_ARGUMENT if one of the two lies in the other.
 */
export async function syncLocally(
  engine: Engine,
  sourcePath: string,
  targetPath: string,
  options: SyncOptions,
  { signal, onProgress, memory }: SyncOperation,
): Promise<SyncReport> {
  const files = new UserFiles();
  const source = await files.source(sourcePath);
  const target = await files.target(targetPath, source.shape);
  if (source.shape.kind !== 'entry') await refuseOverlap(source, target, options);
  const receives: Receiving = { place: target, memory: await memory?.receiver(target) };
  const sends: Sending = { place: source, memory: receives.memory && (await memory?.beside(source, target)) };
  const [sender, receiver] = await faceToFace(
    (stream, eitherSignal) => runSender(engine, sends, stream, options, { signal: eitherSignal }),
    (stream, eitherSignal) =>
      runReceiver(engine, receives, stream, options, { signal: eitherSignal, ...(onProgress && { onProgress }) }),
    signal,
  );
  return {
    ...outcome(source.shape, sender, receiver),
    bytesSent: sender.statistics['sentBytes'] ?? 0,
    bytesReceived: sender.statistics['receivedBytes'] ?? 0,
  };
}

/**
 * With a peer that speaks over `stream`: the client's half. The stream is closed afterwards, whatever happens.
 * @throws DeltahopError what the engine, the peer or the link says.
 */
export async function syncWithPeer(
  engine: Engine,
  stream: TransportStream,
  { direction, localPath, module, remotePath }: PeerSync,
  options: SyncOptions,
  operation: SyncOperation,
): Promise<SyncReport> {
  const times = operation.times ?? syncTimes;
  const { signal, memory } = operation;
  const files = new UserFiles();
  const source = direction === 'send' ? await files.source(localPath) : null;
  const link = new Link(stream, times);
  const onAbort = () => link.fail(new DeltahopError('DELTAHOP_E_CANCELLED', 'the sync was cancelled'));
  if (signal?.aborted) onAbort();
  signal?.addEventListener('abort', onAbort, { once: true });
  let kind: SourceShape['kind'] | null;
  try {
    const { durable: _begin, ...openOptions } = options;
    const remember = memory === undefined ? null : await memoryName(engine, localPath);
    if (options.silenceMs !== null) link.limitSilence(options.silenceMs);
    link.send({
      type: 'open',
      ...ownVersions,
      ...identity(engine),
      module,
      path: remotePath,
      direction,
      source: source?.shape ?? null,
      options: { ...openOptions, remember },
    });
    const opened = await link.expect('opened', times.handshakeMs * 2);
    try {
      negotiateVersion(ownVersions, { protocol: opened.protocol, minProtocol: opened.protocol });
      requireCommonFormat(opened.formats);
      if (source === null && opened.kind === null) {
        throw new DeltahopError('DELTAHOP_E_PROTOCOL', `${link.peer} does not say what its source is`);
      }
    } catch (error) {
      link.fail(error as DeltahopError);
      throw error;
    }
    link.limitDataFrames(opened.limits.maxDataFrameBytes);
    kind = opened.kind;
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
  try {
    const shape = source?.shape ?? shapeOf(kind ?? 'contents', remotePath);
    const sends = source && {
      place: source,
      memory: await memory?.sender(source, [link.peer, module ?? '', remotePath]),
    };
    const place = source ?? (await files.target(localPath, shape));
    const receives = { place, memory: sends === null ? await memory?.receiver(place) : undefined };
    const peer = new PeerReport();
    link.send({ type: 'begin', slot: 'sync', direction, durable: options.durable });
    const own = await runTransfer(link, times, operation, {
      side: 'client',
      job: (channel, jobOptions) =>
        sends === null
          ? runReceiver(engine, receives, channel, options, jobOptions)
          : runSender(engine, sends, channel, options, jobOptions),
      onMessage: (message) => peer.take(message),
    });
    const theirs = peer.report();
    await link.close();
    const ends =
      sends === null
        ? outcome(shape, theirs, own)
        : outcome(shape, await kept(memory, sends, own, options, signal ? { signal } : {}), theirs);
    return { ...ends, ...link.counters };
  } catch (error) {
    await link.close();
    throw error;
  }
}

/**
 * Waits until the program at the other end of a fresh stream has greeted. What a login script prints there is not a
 * greeting, and is told.
 * @throws DeltahopError DELTAHOP_E_PROTOCOL, DELTAHOP_E_TIMEOUT, DELTAHOP_E_CANCELLED, or the stream's own error.
 */
export async function awaitGreeting({ duplex, peer }: TransportStream, signal?: AbortSignal): Promise<void> {
  const greeting = await new Promise<Buffer>((resolve, reject) => {
    const settle = (finish: () => void): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      for (const [event, listener] of listeners) duplex.removeListener(event, listener);
      // Between here and its next owner nobody else would catch an error.
      duplex.on('error', () => {});
      finish();
    };
    const fail = (error: DeltahopError): void =>
      settle(() => {
        duplex.destroy();
        reject(error);
      });
    const onReadable = (): void => {
      const bytes: Buffer | null = duplex.read(syncPreamble.length);
      if (bytes !== null) settle(() => resolve(bytes));
    };
    const onEnd = (): void => fail(new DeltahopError('DELTAHOP_E_LINK', `${peer} closed the connection`));
    const onAbort = (): void => fail(new DeltahopError('DELTAHOP_E_CANCELLED', 'the sync was cancelled'));
    const listeners: [string, (error: Error) => void][] = [
      ['readable', onReadable],
      ['end', onEnd],
      ['close', onEnd],
      ['error', (error) => fail(asDeltahopError(error))],
    ];
    const timer = setTimeout(
      () => fail(new DeltahopError('DELTAHOP_E_TIMEOUT', `${peer} said nothing in ${greetingMs / 1000} s`)),
      greetingMs,
    );
    for (const [event, listener] of listeners) duplex.on(event, listener);
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
  });
  if (greeting.equals(syncPreamble)) return;
  const words = Buffer.concat([greeting, (duplex.read() as Buffer | null) ?? Buffer.alloc(0)]).toString('utf8');
  duplex.destroy();
  throw new DeltahopError(
    'DELTAHOP_E_PROTOCOL',
    `${peer} did not answer as deltahop does; it said: ${printable(words.slice(0, 200))}`,
  );
}

/** What a server offers. */
export interface SyncOffer {
  /**
   * The files of a module, null standing for none named.
   * @throws DeltahopError DELTAHOP_E_NOT_FOUND, DELTAHOP_E_DENIED.
   */
  files(module: string | null, direction: Direction): SyncFiles;
  /** Where to keep what clients want remembered; nothing is kept without. */
  memory?: SyncMemory | undefined;
  /** Told what the client wants, once that is granted. */
  onOpened?(open: MessageOf<'open'>): void;
}

/** Serves the files of this process' own user over its standard input and output: what ssh starts. */
export async function serveUserFiles(
  engine: Engine,
  stream: TransportStream,
  memory: SyncMemory,
  signal?: AbortSignal,
): Promise<DeltahopError | null> {
  stream.duplex.write(syncPreamble);
  const offer: SyncOffer = {
    memory,
    files: (module) => {
      if (module === null) return new UserFiles();
      throw new DeltahopError('DELTAHOP_E_NOT_FOUND', 'there are no modules here');
    },
  };
  return await serveSync(engine, stream, offer, signal === undefined ? {} : { signal });
}

/**
 * The server's half of one sync, on a connection of which the preamble is read.
 * @returns null if all went well, else why it failed; the peer was told. Never throws.
 */
export async function serveSync(
  engine: Engine,
  stream: TransportStream,
  offer: SyncOffer,
  { times = syncTimes, signal, onProgress }: OperationOptions & { times?: SessionTimes },
): Promise<DeltahopError | null> {
  const link = new Link(stream, times);
  const onAbort = () =>
    link.fail(new DeltahopError('DELTAHOP_E_LINK', `the connection of ${link.peer} was ended here`));
  if (signal?.aborted) onAbort();
  signal?.addEventListener('abort', onAbort, { once: true });
  let failure: DeltahopError | null = null;
  try {
    const open = await link.expect('open', times.handshakeMs);
    const protocol = negotiateVersion(ownVersions, open);
    requireCommonFormat(open.formats);
    link.limitDataFrames(open.limits.maxDataFrameBytes);
    if (open.options.silenceMs !== null) link.limitSilence(open.options.silenceMs);
    const files = offer.files(open.module, open.direction);
    const source = open.source === null ? await files.source(open.path) : null;
    const place = source ?? (await files.target(open.path, open.source as SourceShape));
    offer.onOpened?.(open);
    link.send({ type: 'opened', protocol, ...identity(engine), kind: source?.shape.kind ?? null });
    const begin = await link.expect('begin', times.handshakeMs);
    const { remember, ...asked } = open.options;
    const options: SyncOptions = { ...asked, durable: begin.durable };
    const memory = remember === null ? undefined : offer.memory;
    const sends = source && { place: source, memory: await memory?.sender(source, ['client', remember ?? '']) };
    const receives = { place, memory: sends === null ? await memory?.receiver(place) : undefined };
    try {
      await runTransfer(
        link,
        times,
        { ...(signal && { signal }), ...(onProgress && { onProgress }) },
        {
          side: 'server',
          job: async (channel, jobOptions) => {
            link.send({ type: 'ready' });
            if (sends === null) return await runReceiver(engine, receives, channel, options, jobOptions);
            const report = await runSender(engine, sends, channel, options, jobOptions);
            // The client waits for it, and hears that something is going on.
            const onProgress: OperationOptions['onProgress'] = (progress) =>
              jobOptions.onProgress?.({ ...progress, doneBytes: progress.totalBytes + progress.doneBytes });
            return await kept(memory, sends, report, options, { ...jobOptions, onProgress });
          },
          completed: async (report) => sendReport(link, report),
        },
      );
    } catch (error) {
      failure = asDeltahopError(error);
      if (link.error !== null) throw error;
    }
    await link.expect('bye', times.handshakeMs);
    await link.close();
  } catch (error) {
    failure ??= asDeltahopError(error);
    link.fail(failure);
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
  await link.closed;
  return failure ?? link.error;
}

/** What a side sends, and what it remembers of it. */
interface Sending {
  place: SyncPlace;
  memory: SenderMemory | undefined;
}

/** Where a side receives, and what it remembers of that. */
interface Receiving {
  place: SyncPlace;
  memory: ReceiverMemory | undefined;
}

function runSender(
  engine: Engine,
  { place, memory }: Sending,
  channel: Duplex,
  options: SyncOptions,
  operation: OperationOptions,
): Promise<OperationReport> {
  const { verify } = options;
  return engine.send(place.rootPath, bounded(channel, options), {
    ...place.part,
    verify,
    // Whoever syncs a live directory wants what can be had of it; the report says what could not.
    allowChanging: true,
    ...(isRemembered(options) ? memory : {}),
    ...operation,
  });
}

function runReceiver(
  engine: Engine,
  { place, memory }: Receiving,
  channel: Duplex,
  options: SyncOptions,
  operation: OperationOptions,
): Promise<OperationReport> {
  const { deleteOthers, maxDeletes, inPlace, dryRun, itemize, durable } = options;
  return engine.receive(place.rootPath, bounded(channel, options), {
    ...place.part,
    ...(maxDeletes === null ? {} : { maxDeletes }),
    deleteOthers,
    inPlace,
    dryRun,
    itemize,
    durable,
    ...(isRemembered(options) ? memory : {}),
    ...operation,
  });
}

/** A dry run leaves no trace, and whoever wants contents compared does not want them taken from memory. */
function isRemembered({ dryRun, verify }: SyncOptions): boolean {
  return !dryRun && !verify;
}

/** The report of a sender once it has kept what it is to remember. */
async function kept(
  memory: SyncMemory | undefined,
  { place, memory: own }: Sending,
  report: OperationReport,
  options: SyncOptions,
  operation: OperationOptions,
): Promise<OperationReport> {
  if (memory === undefined || own === undefined || !isRemembered(options)) return report;
  const note = await memory.keep(place, own, report, operation);
  return note === null ? report : { ...report, notes: [...report.notes, note] };
}

function bounded(stream: Duplex, { bytesPerSecond }: SyncOptions): Duplex {
  return bytesPerSecond === null ? stream : throttled(stream, bytesPerSecond);
}

function outcome(
  shape: SourceShape,
  sender: OperationReport,
  receiver: OperationReport,
): Omit<SyncReport, 'bytesSent' | 'bytesReceived'> {
  const { changedFiles = 0, goneFiles = 0 } = sender.statistics;
  const { missedEntries = 0, incompleteSource = 0 } = receiver.statistics;
  const isComplete = changedFiles + goneFiles + missedEntries + incompleteSource === 0;
  return { shape, sender, receiver, items: receiver.items ?? '', isComplete };
}

/** A target in its own source would be copied into itself; a source in its own target could be deleted by it. */
async function refuseOverlap(source: SyncPlace, target: SyncPlace, { deleteOthers }: SyncOptions): Promise<void> {
  const from = await realpath(source.rootPath);
  const base = await realpath(target.rootPath).catch(() => null);
  if (base === null) return;
  const to = target.part.beneath === undefined ? base : `${base}/${target.part.beneath}`;
  if (!isWithin(to, from) && !(deleteOthers && isWithin(from, to))) return;
  throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${from} and ${to} lie within each other`);
}

function isWithin(path: string, directory: string): boolean {
  return path === directory || path.startsWith(directory === '/' ? '/' : `${directory}/`);
}

/** Says how the server's engine ended, before its `done`. */
function sendReport(link: Link, { statistics, notes, items = '' }: OperationReport): void {
  for (let at = 0; at < items.length; at += maxChangesUnits) {
    link.send({ type: 'changes', text: items.slice(at, at + maxChangesUnits) });
  }
  let reportBytes = 0;
  const kept = notes
    .map((note) => note.slice(0, 512))
    .filter((note) => {
      reportBytes += Buffer.byteLength(JSON.stringify(note)) + 1;
      return reportBytes <= maxReportBytes;
    });
  link.send({ type: 'report', statistics: { ...statistics }, notes: kept });
}

/** Gathers what the server says of its half. */
class PeerReport {
  #report: MessageOf<'report'> | null = null;
  #items: string[] = [];
  #itemsUnits = 0;

  take(message: Message): boolean {
    if (message.type === 'changes') {
      this.#itemsUnits += message.text.length;
      if (this.#itemsUnits > maxItemsUnits) throw new DeltahopError('DELTAHOP_E_LIMIT', 'too long a list of changes');
      this.#items.push(message.text);
      return true;
    }
    if (message.type !== 'report' || this.#report !== null) return false;
    this.#report = message;
    return true;
  }

  report(): OperationReport {
    if (this.#report === null) throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'the peer gave no report');
    const { statistics, notes } = this.#report;
    return { statistics, notes: notes.map(printable), items: this.#items.join('') };
  }
}
