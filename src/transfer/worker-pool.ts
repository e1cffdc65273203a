/** Starts, keeps warm, and ends the worker processes of transfers. */
import { type ChildProcess, fork } from 'node:child_process';
import type { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { DeltahopError } from '../errors.js';
import { printable } from '../wire/messages.js';
import { type Command, eventSchema, fromErrorRecord, type WorkerEvent } from './worker-messages.js';

const defaultMaxWorkers = 32;
/** A process that has not loaded its engine by then never will. */
const startLimitMs = 30_000;
/** How long a worker may take to end by itself. */
const endMs = 2000;
const errorTailBytes = 4096;

/** How a worker process ended. */
export interface WorkerExit {
  exitCode: number | null;
  signal: NodeJS.Signals | null;
}

/** One worker process. */
export class TransferWorker {
  /** Resolves once the process is gone and its last event was told. */
  readonly exited: Promise<WorkerExit>;
  /** Resolves once the worker can take a command. @throws DeltahopError why it cannot. */
  readonly warm: Promise<void>;
  readonly #child: ChildProcess;
  #onEvent: ((event: WorkerEvent) => void) | null = null;
  #errorTail = '';
  #gone = false;
  #spoken = false;

  /** Used by the pool alone. */
  constructor(child: ChildProcess) {
    this.#child = child;
    child.stderr?.setEncoding('utf8');
    child.stderr?.on('data', (text: string) => {
      this.#errorTail = (this.#errorTail + text).slice(-errorTailBytes);
    });
    this.exited = new Promise((resolve) => {
      let exit: WorkerExit = { exitCode: null, signal: null };
      let timer: NodeJS.Timeout | undefined;
      const finish = () => {
        clearTimeout(timer);
        resolve(exit);
      };
      child.on('error', () => {
        if (child.pid === undefined) finish();
      });
      child.once('exit', (exitCode, signal) => {
        this.#gone = true;
        exit = { exitCode, signal };
        // `close` follows when the last of its events and words were read; a grandchild could withhold it for ever.
        timer = setTimeout(finish, 500);
      });
      child.once('close', finish);
    });
    this.warm = new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.kill();
        reject(new DeltahopError('DELTAHOP_E_WORKER', `a transfer worker did not start in ${startLimitMs} ms`));
      }, startLimitMs);
      timer.unref();
      child.on('message', (value) => {
        const parsed = eventSchema.safeParse(value);
        if (!parsed.success) {
          // It parses hostile input: whatever made it speak so, it is not to be trusted any more.
          this.#errorTail = `sent its agent what is no event: ${parsed.error.issues[0]?.message}`;
          this.kill();
          return;
        }
        const event = parsed.data;
        if (event.type === 'warm') {
          clearTimeout(timer);
          resolve();
        } else if (this.#onEvent !== null) this.#onEvent(event);
        else if (event.type === 'ended') {
          reject(event.error === null ? this.#lost({ exitCode: 0, signal: null }) : fromErrorRecord(event.error));
        }
        if (event.type === 'ended') this.#spoken = true;
      });
      void this.exited.then((exit) => {
        clearTimeout(timer);
        reject(this.#lost(exit));
      });
    });
    this.warm.catch(() => {});
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Whether the process has ended, or is about to. */
  get gone(): boolean {
    return this.#gone;
  }

  /**
   * From now on `onEvent` hears every event, and last of all exactly one `ended`: the worker's own, or one with
   * DELTAHOP_E_WORKER that names the signal or exit code if it had no last word.
   */
  attach(onEvent: (event: WorkerEvent) => void): void {
    let ended = false;
    let counters = { bytesSent: 0, bytesReceived: 0 };
    this.#onEvent = (event) => {
      if (ended) return;
      if ('counters' in event) counters = event.counters;
      ended = event.type === 'ended';
      onEvent(event);
    };
    void this.exited.then((exit) => {
      const { code, message, sysErrno } = this.#lost(exit);
      this.#onEvent?.({ type: 'ended', error: { code, message, sysErrno }, counters });
    });
  }

  /** Sends a command; one to a worker that has ended goes nowhere, as `ended` tells. */
  tell(command: Command, socket?: Socket): void {
    if (!this.#child.connected) return;
    this.#child.send(command, socket, {}, () => {});
  }

  /** Asks the worker to end, and makes it after `graceMs`. Resolves when it is gone. */
  async end(graceMs = endMs): Promise<void> {
    this.setReferenced(true);
    if (this.#child.connected) {
      this.tell({ type: 'cancel' });
      this.tell({ type: 'close' });
    }
    const timer = setTimeout(() => this.kill(), graceMs);
    await this.exited;
    clearTimeout(timer);
  }

  /** Ends the process at once. */
  kill(): void {
    if (!this.#gone) this.#child.kill('SIGKILL');
  }

  /** While idle, neither the process nor its pipes keep the agent alive. */
  setReferenced(referenced: boolean): void {
    const handles = [this.#child, this.#child.channel, this.#child.stderr as unknown as Partial<ChildProcess> | null];
    for (const handle of handles) {
      if (referenced) handle?.ref?.();
      else handle?.unref?.();
    }
  }

  #lost({ exitCode, signal }: WorkerExit): DeltahopError {
    const how =
      signal !== null
        ? `was ended by ${signal}`
        : exitCode === null
          ? 'could not be started'
          : `exited with ${exitCode}`;
    const words = this.#spoken ? '' : (this.#errorTail.trim().split('\n').at(-1) ?? '');
    return new DeltahopError(
      'DELTAHOP_E_WORKER',
      `transfer worker ${this.pid ?? ''} ${how}${words === '' ? '' : ` (${printable(words).slice(0, 300)})`}`,
    );
  }
}

/** The workers of one agent. Close it before the agent ends. */
export class WorkerPool {
  readonly #entryPath: string;
  readonly #maxWorkers: number;
  readonly #workers = new Set<TransferWorker>();
  #spare: TransferWorker | null = null;
  #closed = false;

  /** @param options `entry`: the worker's main program, another one in tests of faults that the real one never shows. */
  constructor(options: { entry?: URL; maxWorkers?: number } = {}) {
    this.#entryPath = fileURLToPath(options.entry ?? new URL('./worker.js', import.meta.url));
    this.#maxWorkers = options.maxWorkers ?? defaultMaxWorkers;
    this.#refill();
  }

  /** Ids of the worker processes that live now, the spare one included. */
  get pids(): readonly number[] {
    return [...this.#workers].flatMap(({ pid }) => (pid === undefined ? [] : [pid]));
  }

  /**
   * A worker for one connection: the warm spare if there is one, so that no process start lies in a freeze.
   * @throws DeltahopError DELTAHOP_E_BUSY at the bound, DELTAHOP_E_WORKER or what else keeps it from starting.
   */
  async take(): Promise<TransferWorker> {
    if (this.#closed) throw new DeltahopError('DELTAHOP_E_BUSY', 'the agent is stopping');
    let worker = this.#spare;
    this.#spare = null;
    if (worker === null || worker.gone) {
      if (this.#workers.size >= this.#maxWorkers) {
        throw new DeltahopError('DELTAHOP_E_BUSY', `${this.#workers.size} transfer workers run already`);
      }
      worker = this.#start();
    }
    worker.setReferenced(true);
    // A spare that cannot start would be tried again for ever: only after this one has.
    await worker.warm;
    this.#refill();
    return worker;
  }

  /** Ends every worker, those in use too. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#spare?.kill();
    await Promise.all([...this.#workers].map((worker) => worker.end()));
  }

  #refill(): void {
    if (this.#closed || this.#spare !== null || this.#workers.size >= this.#maxWorkers) return;
    const spare = this.#start();
    spare.setReferenced(false);
    this.#spare = spare;
    void spare.exited.then(() => {
      if (this.#spare === spare) this.#spare = null;
    });
  }

  #start(): TransferWorker {
    const child = fork(this.#entryPath, [], {
      execPath: process.execPath,
      execArgv: [],
      cwd: '/',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      serialization: 'json',
    });
    const worker = new TransferWorker(child);
    this.#workers.add(worker);
    void worker.exited.then(() => this.#workers.delete(worker));
    return worker;
  }
}
