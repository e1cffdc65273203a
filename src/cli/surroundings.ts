/** What every command has around it, and how it can end. */
import type { Logger } from 'pino';
import type { Output } from './render.js';

/** Exit codes, as `deltahop --help` documents them. */
export const exitCodes = { ok: 0, failed: 1, usage: 2, partial: 23, tooManyDeletes: 25, interrupted: 130 } as const;

/** What a command has around it; the real one is made in main, another one by tests. */
export interface Surroundings {
  stdout: Output;
  stderr: Output;
  env: Readonly<Record<string, string | undefined>>;
  hostName: string;
  log: () => Promise<Logger>;
  /** Calls `handler` at every SIGINT and SIGTERM until the returned function is called. */
  onInterrupt(handler: (signal: 'SIGINT' | 'SIGTERM') => void): () => void;
}
