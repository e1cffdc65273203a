/** `deltahop sync`: one directory or file made equal to another, here or elsewhere. */
import { homedir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { permittedAddress } from '../agent/peers.js';
import {
  type Engine,
  loadEngine,
  type OperationOptions,
  type OperationReport,
  type Progress,
} from '../engine/engine.js';
import { DeltahopError } from '../errors.js';
import {
  awaitGreeting,
  type PeerSync,
  type SyncOperation,
  type SyncOptions,
  type SyncReport,
  serveUserFiles,
  syncLocally,
  syncWithPeer,
} from '../transfer/sync.js';
import { SyncMemory } from '../transfer/sync-memory.js';
import { commandWords, startRemote } from '../transport/ssh.js';
import { stdioStream } from '../transport/stdio.js';
import type { TransportStream } from '../transport/stream.js';
import { connectTcp } from '../transport/tcp.js';
import { maxSilenceMs, minSilenceMs, syncPreamble } from '../wire/messages.js';
import { orInvalid } from './option-values.js';
import { bytesText, durationText, eventView, jsonLine, printable } from './render.js';
import { exitCodes, type Surroundings } from './surroundings.js';
import { type Location, parseLocation } from './sync-location.js';

const connectMs = 20_000;
const interruptLagMs = 50;
const progressPauseMs = 200;
/** Characters of an item in front of its path: what happens, what it is, what differs, a blank. */
const itemCodeUnits = 12;
/** Warnings that are shown without -v; more are only counted. */
const shortWarnings = 3;

interface SyncFlags {
  delete?: boolean;
  maxDelete?: number;
  inplace?: boolean;
  dryRun?: boolean;
  itemize?: boolean;
  checksum?: boolean;
  bwlimit?: number;
  timeout?: number;
  fsync?: boolean;
  remember?: boolean;
  stats?: boolean;
  progress?: boolean;
  humanReadable?: boolean;
  verbose?: boolean;
  quiet?: boolean;
  rsh?: string[];
  remoteCommand: string;
  insecure?: boolean;
  server?: boolean;
  json?: boolean;
}

const help = `
SRC and DEST are each one of
  PATH                             here
  [USER@]HOST:PATH                 on another machine, by ssh; deltahop must be installed there
  deltahop://HOST:PORT/MODULE/PATH  beneath a directory that \`deltahop serve\` offers
and one of the two is here. SRC/ is what is in the directory, SRC the directory itself, to be made beneath DEST; a SRC that is
a file goes into DEST if that is a directory, else it becomes DEST. Files keep all they have: modes, owners, times, links,
extended attributes, holes (rsync's -aHAXS). What DEST has more is left alone without --delete.

A transfer that was cut goes on where it stopped when the same command is run again.

With --remember both sides keep records of the two trees, and the one that sends a copy of what it sent, in
$XDG_STATE_HOME/deltahop/sync (else ~/.local/state; a server: --remember DIR). The next such sync sends what differs without asking
first; it needs --delete wherever DEST could have more. Single files are not remembered, and with -c nothing is used.

Exit codes:
  0    done
  1    failed; the message says why and what to do
  2    the command line is not right
  23   done in part: something could not be read, changed while it was read or could not be made; warnings say what
  25   nothing was deleted, as it would have been more than --max-delete allows
  130  interrupted

Examples:
  deltahop sync --delete /srv/www/ backup@10.0.0.2:/srv/www/
  deltahop sync -ni /srv/www /mnt/copies
  deltahop sync --bwlimit 500k deltahop://127.0.0.1:7410/srv/www/ ./www/`;

/** Adds `sync` to the program. */
export function addSyncCommand(program: Command, around: Surroundings, done: (code: number) => void): void {
  program
    .command('sync')
    .description('Make a directory or file equal to another one, and send as few bytes as that takes.')
    .usage('[options] <src> <dest>')
    .argument('[src]', 'what is copied', readLocation)
    .argument('[dest]', 'where it goes', readLocation)
    .option('--delete', 'delete what DEST has and SRC has not')
    .option('--max-delete <n>', 'with --delete: if more than N entries would go, delete none', readCount)
    .option('--inplace', 'nobody uses DEST meanwhile: patch larger files where they lie')
    .option('-n, --dry-run', 'change nothing; with -i, say what would change')
    .option('-i, --itemize', "say what changes, in rsync's notation")
    .option('-c, --checksum', 'compare files by their contents, not by size and time')
    .option('--bwlimit <rate>', 'bound of each direction, in KiB/s or with a suffix: 500k, 1.5m', readRate)
    .option(
      '--timeout <seconds>',
      'give up when nothing came from the other side for so long (default: 10)',
      readTimeout,
    )
    .option('--fsync', 'done means: on stable storage')
    .option('--remember', 'keep what makes the next such sync cheaper, here and at the other side')
    .option('--stats', 'say at the end what was read, found and sent')
    .option('-h, --human-readable', 'figures of --stats with units')
    .option('-P, --progress', 'show progress where there is no terminal, too')
    .option('-v, --verbose', 'name what is copied and deleted, and all warnings')
    .option('-q, --quiet', 'say nothing but errors')
    .option('-e, --rsh <command>', 'the program to use in place of ssh, with its arguments', readWords)
    .option('--remote-command <command>', 'what to run on the other machine', 'deltahop')
    .option('--insecure', 'connect to a server beyond this machine, though nothing is encrypted or authenticated')
    .option('-a, --archive', 'always so; for the habit of it')
    .option('-z, --compress', 'always so, as far as it helps; for the habit of it')
    .addOption(new Option('--server', 'speak to a client on standard input and output').hideHelp())
    // To rsync's users -h is for figures.
    .helpOption('--help', 'display help for command')
    .addHelpText('after', help)
    .action(async (src: Location | undefined, dest: Location | undefined, _flags: object, command: Command) => {
      const flags = command.optsWithGlobals<SyncFlags>();
      const stop = new AbortController();
      const off = around.onInterrupt(() => stop.abort());
      try {
        if (flags.server === true) {
          const engine = loadEngine();
          const memory = new SyncMemory(engine, memoryPath(around));
          const failure = await serveUserFiles(engine, stdioStream('the client'), memory, stop.signal);
          done(failure === null ? exitCodes.ok : exitCodes.failed);
          return;
        }
        if (src === undefined || dest === undefined) return command.error('error: give a source and a destination');
        if (src.kind !== 'local' && dest.kind !== 'local') {
          return command.error('error: the source or the destination must be on this machine');
        }
        done(await sync(src, dest, flags, around, stop.signal));
      } catch (cause) {
        // Ctrl-C reaches ssh as well: that its connection broke is then no news, though it may be heard of first.
        await delay(interruptLagMs);
        if (!stop.signal.aborted) throw cause;
        throw new DeltahopError('DELTAHOP_E_CANCELLED', 'the sync was interrupted', { cause });
      } finally {
        off();
      }
    });
}

async function sync(
  src: Location,
  dest: Location,
  flags: SyncFlags,
  around: Surroundings,
  signal: AbortSignal,
): Promise<number> {
  const options: SyncOptions = {
    deleteOthers: flags.delete === true,
    maxDeletes: flags.maxDelete ?? null,
    inPlace: flags.inplace === true,
    dryRun: flags.dryRun === true,
    itemize: flags.itemize === true || flags.verbose === true || (flags.dryRun === true && flags.json === true),
    verify: flags.checksum === true,
    durable: flags.fsync === true,
    bytesPerSecond: flags.bwlimit ?? null,
    silenceMs: flags.timeout ?? null,
  };
  const startedAtMs = performance.now();
  const engine = loadEngine();
  const memory = flags.remember === true ? { memory: new SyncMemory(engine, memoryPath(around)) } : {};
  const report = await watched(flags, around, signal, (operation) =>
    run(engine, src, dest, options, flags, { ...operation, ...memory }),
  );
  const ms = performance.now() - startedAtMs;
  if (flags.json === true) tellJson(report, ms, flags, src.kind === 'local' && dest.kind !== 'local', around);
  else if (flags.quiet !== true) tell(report, ms, flags, src.kind === 'local' && dest.kind !== 'local', around);
  if (!report.isComplete) return exitCodes.partial;
  return (report.receiver.statistics['deletesRefused'] ?? 0) > 0 ? exitCodes.tooManyDeletes : exitCodes.ok;
}

/** Where this user's programs keep what they could do without. */
function memoryPath({ env }: Surroundings): string {
  return join(env['XDG_STATE_HOME'] || join(homedir(), '.local/state'), 'deltahop/sync');
}

async function run(
  engine: Engine,
  src: Location,
  dest: Location,
  options: SyncOptions,
  flags: SyncFlags,
  operation: SyncOperation,
): Promise<SyncReport> {
  if (src.kind === 'local' && dest.kind === 'local') {
    return await syncLocally(engine, src.path, dest.path, options, operation);
  }
  const sends = src.kind === 'local';
  const [here, there] = sends ? [src, dest] : [dest, src];
  const peer: PeerSync = {
    direction: sends ? 'send' : 'receive',
    localPath: here.path,
    module: there.kind === 'server' ? there.module : null,
    remotePath: there.path,
  };
  const stream = await connect(there, flags, operation.signal);
  try {
    return await syncWithPeer(engine, stream, peer, options, operation);
  } finally {
    stream.duplex.destroy();
  }
}

async function connect(there: Location, flags: SyncFlags, signal: AbortSignal | undefined): Promise<TransportStream> {
  if (there.kind === 'server') {
    const address = await permittedAddress(there.address, flags.insecure === true);
    const stream = await connectTcp({ ...address, deadlineMs: connectMs, signal });
    stream.duplex.write(syncPreamble);
    return stream;
  }
  const stream = startRemote({
    host: there.kind === 'ssh' ? there.host : '',
    // One string, as with rsync: the user's own words for the user's own shell over there.
    command: [flags.remoteCommand, 'sync', '--server'],
    ...(flags.rsh === undefined ? {} : { shell: flags.rsh }),
  });
  await awaitGreeting(stream, signal);
  return stream;
}

/** Runs `work` with progress on the terminal or as JSON. */
async function watched(
  flags: SyncFlags,
  around: Surroundings,
  signal: AbortSignal,
  work: (operation: OperationOptions) => Promise<SyncReport>,
): Promise<SyncReport> {
  const shown =
    flags.json === true || (flags.quiet !== true && (flags.progress === true || around.stderr.isTTY === true));
  if (!shown) return await work({ signal });
  const view = eventView(flags.json === true, around.stdout, around.stderr);
  let shownAtMs = Number.NEGATIVE_INFINITY;
  const onProgress = (progress: Progress): void => {
    const nowMs = performance.now();
    if (nowMs - shownAtMs < progressPauseMs) return;
    shownAtMs = nowMs;
    view.show({ type: 'progress', phase: 'sync', what: 'sync', ...progress });
  };
  try {
    return await work({ signal, onProgress });
  } finally {
    view.close();
  }
}

function tell(report: SyncReport, ms: number, flags: SyncFlags, pushes: boolean, around: Surroundings): void {
  for (const { code, path } of itemsOf(report, pushes)) {
    if (flags.itemize === true) around.stdout.write(`${code} ${printable(path)}\n`);
    else if (flags.verbose === true && !code.startsWith('.')) {
      around.stdout.write(`${code.startsWith('*') ? 'deleting ' : ''}${printable(path)}\n`);
    }
  }
  const notes = notesOf(report);
  const shown = flags.verbose === true || !report.isComplete ? notes : notes.slice(0, shortWarnings);
  for (const note of shown) around.stderr.write(`warning: ${printable(note)}\n`);
  if (shown.length < notes.length) around.stderr.write(`warning: ${notes.length - shown.length} more; -v shows them\n`);
  if (flags.stats === true) around.stdout.write(statsText(report, ms, flags.humanReadable === true));
  if (flags.verbose === true || around.stderr.isTTY === true) {
    around.stderr.write(`${summaryText(report, ms, flags.dryRun === true)}\n`);
  }
}

function tellJson(report: SyncReport, ms: number, flags: SyncFlags, pushes: boolean, around: Surroundings): void {
  for (const { code, path } of itemsOf(report, pushes)) {
    around.stdout.write(jsonLine({ type: 'change', change: code.trimEnd(), path }));
  }
  for (const message of notesOf(report)) around.stdout.write(jsonLine({ type: 'warning', message }));
  around.stdout.write(
    jsonLine({
      type: 'summary',
      result: report.isComplete ? 'done' : 'partial',
      dryRun: flags.dryRun === true,
      ms,
      bytesSent: report.bytesSent,
      bytesReceived: report.bytesReceived,
      ...figuresOf(report),
      sender: report.sender.statistics,
      receiver: report.receiver.statistics,
    }),
  );
}

/** A change's code and path; the path begins with the directory's own name where that goes over too, as rsync shows it. */
function* itemsOf({ items, shape }: SyncReport, pushes: boolean): Generator<{ code: string; path: string }> {
  const above = shape.kind === 'directory' && shape.name !== null ? `${escapedName(shape.name)}/` : '';
  for (let at = 0; at < items.length; ) {
    const end = items.indexOf('\n', at);
    if (end < 0) return;
    const code = items.slice(at, at + itemCodeUnits - 1);
    const rest = items.slice(at + itemCodeUnits, end);
    at = end + 1;
    const path = above !== '' && rest === './' ? above : above + rest;
    // To rsync's users `<` is a file that leaves this machine.
    yield { code: pushes && code.startsWith('>') ? `<${code.slice(1)}` : code, path };
  }
}

/** As the engine writes names in its list of changes. */
function escapedName(name: string): string {
  return name.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to escape
    /[\u0000-\u001f\u007f]|\\(?=#)/g,
    (character) => `\\#${character.charCodeAt(0).toString(8).padStart(3, '0')}`,
  );
}

function notesOf({ sender, receiver }: SyncReport): string[] {
  return [...sender.notes, ...receiver.notes];
}

function figuresOf({ sender, receiver }: SyncReport) {
  const of = ({ statistics }: OperationReport, name: string): number => statistics[name] ?? 0;
  return {
    files: of(sender, 'filesTotal'),
    totalBytes: of(sender, 'totalBytes'),
    filesSent: of(sender, 'filesSent'),
    literalBytes: of(sender, 'literalBytes'),
    matchedBytes: of(sender, 'matchedBytes'),
    zeroBytes: of(sender, 'zeroBytes'),
    deletedEntries: of(receiver, 'deletedEntries'),
    repairedFiles: of(receiver, 'repairedFiles'),
  };
}

function statsText(report: SyncReport, ms: number, humanReadable: boolean): string {
  const bytes = (count: number): string => (humanReadable ? bytesText(count) : `${count} bytes`);
  const figures = figuresOf(report);
  const traffic = report.bytesSent + report.bytesReceived;
  const rows: [string, string][] = [
    ['files', String(figures.files)],
    ['files sent', String(figures.filesSent)],
    ['entries deleted', String(figures.deletedEntries)],
    ['files repaired', String(figures.repairedFiles)],
    ['size', bytes(figures.totalBytes)],
    ['literal', bytes(figures.literalBytes)],
    ['matched', bytes(figures.matchedBytes)],
    ['zeros', bytes(figures.zeroBytes)],
    ['sent', bytes(report.bytesSent)],
    ['received', bytes(report.bytesReceived)],
    ['time', durationText(ms)],
    ['speed-up', traffic === 0 ? '-' : (figures.totalBytes / traffic).toFixed(2)],
  ];
  return `${rows.map(([label, value]) => `${label.padEnd(16)} ${value}`).join('\n')}\n`;
}

function summaryText(report: SyncReport, ms: number, dryRun: boolean): string {
  const { files, totalBytes, filesSent } = figuresOf(report);
  const traffic = `sent ${bytesText(report.bytesSent)}, received ${bytesText(report.bytesReceived)}`;
  const did = dryRun ? 'nothing was changed (dry run)' : `${filesSent} of ${files} files sent`;
  return `${did}; ${bytesText(totalBytes)} in ${durationText(ms)}; ${traffic}`;
}

function readLocation(text: string): Location {
  return orInvalid(() => parseLocation(text));
}

function readWords(text: string): string[] {
  return orInvalid(() => commandWords(text));
}

function readCount(text: string): number {
  const count = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(count)) return count;
  throw new InvalidArgumentError('A whole number is needed.');
}

/** In milliseconds; 0 is no other than the usual time. */
function readTimeout(text: string): number | undefined {
  const ms = readCount(text) * 1000;
  if (ms === 0) return undefined;
  if (ms >= minSilenceMs && ms <= maxSilenceMs) return ms;
  throw new InvalidArgumentError(`From ${minSilenceMs / 1000} to ${maxSilenceMs / 1000} seconds.`);
}

/** As rsync reads it: KiB without a suffix; K, M, G are powers of 1024, KB, MB, GB of 1000; 0 is no bound. In bytes/s. */
function readRate(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)([kmg]?)(b|ib)?$/i.exec(text);
  if (match === null) throw new InvalidArgumentError('Write a number with a suffix of K, M or G.');
  const [, digits = '', letter = '', unit = ''] = match;
  if (Number(digits) === 0) return undefined;
  if (letter === '' && unit !== '') throw new InvalidArgumentError('Write a number with a suffix of K, M or G.');
  const power = ({ k: 1, m: 2, g: 3 } as Record<string, number>)[letter.toLowerCase()] ?? 1;
  const rate = Math.round(Number(digits) * (unit.toLowerCase() === 'b' ? 1000 : 1024) ** power);
  if (rate < 1024) throw new InvalidArgumentError('At least 1 KiB/s is needed.');
  return Math.min(rate, 2 ** 40);
}
