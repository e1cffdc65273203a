#!/usr/bin/env node
/** The program `deltahop`: this process' arguments, streams, signals and exit code. */
import { hostname } from 'node:os';
import { run } from './commands.js';
import { exitCodes } from './surroundings.js';

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    // Whoever read it has seen enough (`deltahop layer list | head -1`).
    if (error.code === 'EPIPE') process.exit(exitCodes.ok);
    throw error;
  });
}

const handlers = new Set<(signal: 'SIGINT' | 'SIGTERM') => void>();
let interrupts = 0;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    interrupts += 1;
    // Nobody listens, or the user insists.
    if (handlers.size === 0 || interrupts > 2) process.exit(exitCodes.interrupted);
    for (const handler of handlers) handler(signal);
  });
}

process.exitCode = await run(process.argv.slice(2), {
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  hostName: hostname(),
  log: async () => {
    const { default: pino } = await import('pino');
    return pino({ base: null }, pino.destination({ fd: 2, sync: true }));
  },
  onInterrupt: (handler) => {
    handlers.add(handler);
    return () => {
      handlers.delete(handler);
    };
  },
});
