import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type Completed, ended, type RunOptions, run } from './command.js';
import type { RedisClientLine, RedisReport } from './redis-client.js';

/** How the counting client works. */
export interface RedisClientOptions {
  host: string;
  port?: number;
  /** Data to write before the counting starts. */
  fillMib?: number;
  /** Called once a second with the counts so far. */
  onLive?: (report: RedisReport) => void;
}

/** From its start until it counts: a machine that boots while it waits, and what it fills in. */
const clientStartLimitMs = 180_000;

/** The user of the service: a network namespace of its own on the same service network as the nodes' bridges. */
export class TestbedUser {
  readonly #netns: string;
  readonly #children = new Set<ChildProcess>();

  constructor(netns: string) {
    this.#netns = netns;
  }

  /** Runs a program as the user to its end. Throws if it fails, unless `check` is false. */
  runInUser(argv: readonly string[], options: RunOptions = {}): Promise<Completed> {
    return run(this.#enter(argv), options);
  }

  /** Starts a program as the user; it is killed at the latest when the testbed is disposed of. */
  spawnInUser(argv: readonly string[], options: SpawnOptions = {}): ChildProcess {
    const [program = '', ...args] = this.#enter(argv);
    const child = spawn(program, args, options);
    this.#children.add(child);
    child.once('exit', () => this.#children.delete(child));
    return child;
  }

  /**
   * Starts the client that keeps one connection to a redis server and counts; resolves once it counts.
   * @throws Error if nobody answers for three minutes.
   */
  async startRedisClient(options: RedisClientOptions): Promise<RedisClient> {
    const script = join(fileURLToPath(new URL('.', import.meta.url)), 'redis-client.js');
    const args = [script, options.host, `${options.port ?? 6379}`];
    if (options.fillMib !== undefined) args.push('--fill-mib', `${options.fillMib}`);
    if (options.onLive !== undefined) args.push('--live');
    const child = this.spawnInUser([process.execPath, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
    const client = new RedisClient(child, options.onLive);
    const timer = setTimeout(() => child.kill('SIGKILL'), clientStartLimitMs);
    try {
      await client.started;
    } finally {
      clearTimeout(timer);
    }
    return client;
  }

  /** Ends what it runs. */
  async dispose(): Promise<void> {
    const children = [...this.#children];
    for (const child of children) child.kill('SIGKILL');
    await Promise.all(children.map((child) => ended(child, 2000)));
  }

  #enter(argv: readonly string[]): string[] {
    return ['nsenter', `--net=/run/netns/${this.#netns}`, '--', ...argv];
  }
}

/** A counting client that runs as the user. */
export class RedisClient {
  /** Resolves when the data is filled in and the counting has begun. */
  readonly started: Promise<void>;
  readonly #child: ChildProcess;
  readonly #report: Promise<RedisReport>;

  constructor(child: ChildProcess, onLive?: (report: RedisReport) => void) {
    this.#child = child;
    child.stdin?.on('error', () => {});
    const { promise: started, resolve: setStarted, reject: failStarted } = deferred<void>();
    const { promise: report, resolve: setReport, reject: failReport } = deferred<RedisReport>();
    this.started = started;
    this.#report = report;
    // A client that dies is told by whichever of the two is awaited.
    started.catch(() => {});
    report.catch(() => {});
    if (child.stdout) {
      createInterface({ input: child.stdout }).on('line', (text) => {
        const line = JSON.parse(text) as RedisClientLine;
        if (line.type === 'started') setStarted();
        if (line.type === 'live') onLive?.(line);
        if (line.type === 'report') setReport(line);
      });
    }
    child.once('close', (code, signal) => {
      const error = new Error(`the redis client ended with ${code ?? signal} before it reported: does anybody answer?`);
      failStarted(error);
      failReport(error);
    });
  }

  /** Ends the counting: the client reads back all it was promised, and reports. */
  async stop(): Promise<RedisReport> {
    this.#child.stdin?.end();
    const report = await this.#report;
    if (this.#child.exitCode === null) await once(this.#child, 'exit');
    return report;
  }
}

function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: Error) => void } {
  let resolve: (value: T) => void = () => {};
  let reject: (error: Error) => void = () => {};
  const promise = new Promise<T>((whenDone, whenFailed) => {
    resolve = whenDone;
    reject = whenFailed;
  });
  return { promise, resolve, reject };
}
