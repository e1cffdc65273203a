/** One trial: a fresh daemon, one client, and what both of them used. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ended, run } from '../test/testbed/command.js';
import type { Places, Setting } from './contenders.js';
import { Meter } from './meter.js';
import type { End, Network } from './network.js';
import type { Trial } from './rows.js';

const port = 7731;
const startMs = 30_000;
/** What is left of a transfer at the server once the client has its answer. */
const windUpMs = 30_000;
const samplePauseMs = 20;

/** What a trial is made of. */
export interface TrialParts {
  network: Network;
  setting: Setting;
  /** Whatever both ends keep besides the trees. */
  statePath: string;
  sourcePath: string;
  modulePath: string;
  /** A client that takes longer is ended, and the trial has failed. */
  limitMs: number;
  /** Ends the client, and the trial with an Error. */
  signal: AbortSignal;
}

/** Without the further root certificates that some machines name: each start of Node.js reads them, for 35 ms or so. */
const { NODE_EXTRA_CA_CERTS: _, ...ordinaryEnvironment } = process.env;

/** Runs one trial. The target is not looked at here; `ok` says only that both programs said so. */
export async function runTrial(parts: TrialParts): Promise<Trial> {
  const { network, setting, statePath, limitMs, signal: stop } = parts;
  mkdirSync(statePath, { recursive: true });
  const places: Places = { ...parts, serverAddress: network.serverAddress, port };
  const meters = {
    client: Meter.create('client'),
    server: Meter.create('server'),
  };
  const output = (end: End): string => join(statePath, `${end}.out`);
  const start = (end: End, argv: string[]): ChildProcess => {
    const [program = '', ...args] = [...network.prefix(end), ...meters[end].prefix(), ...argv];
    const file = openSync(output(end), 'w');
    const env = { ...ordinaryEnvironment, ...setting.environment(places) };
    const child = spawn(program, args, { stdio: ['ignore', file, file], env });
    closeSync(file);
    return child;
  };
  try {
    const server = start('server', setting.server(places));
    await listening(server, () => readFileSync(output('server'), 'utf8'));
    // It listens before it has started all that waits for clients.
    await meters.server.idle(startMs);
    // The last trial's and the preparation's writes are not this one's.
    await run(['sync', '-f', parts.modulePath], { timeoutMs: 600_000 });
    const serverProcesses = meters.server.pids().length;
    const before = { cpuMs: meters.server.cpuMs(), arrived: await network.arrived() };

    const startedAtMs = performance.now();
    const client = start('client', setting.client(places));
    const { code, signal, exitMs, peakRssBytes, peakRssOfEnd } = await watched(
      client,
      startedAtMs,
      meters,
      limitMs,
      stop,
    );
    await run(['sync', '-f', parts.modulePath], { timeoutMs: 600_000 });
    const wallMs = performance.now() - startedAtMs;

    let note = '';
    if (code !== 0) {
      const said = readFileSync(output('client'), 'utf8').trim().split('\n').at(-1) ?? '';
      note = signal === 'SIGKILL' ? `ended after ${limitMs / 1000} s` : `exit code ${code ?? signal}: ${said}`;
    } else {
      await meters.server.quiet(serverProcesses, windUpMs).catch((error: Error) => {
        note = error.message;
      });
    }
    const arrived = await network.arrived();
    return {
      wallMs,
      exitMs,
      bytesOut: arrived.atServerBytes - before.arrived.atServerBytes,
      bytesIn: arrived.atClientBytes - before.arrived.atClientBytes,
      cpuClientMs: meters.client.cpuMs(),
      cpuServerMs: meters.server.cpuMs() - before.cpuMs,
      peakRssBytes,
      peakRssOfEnd,
      ok: note === '',
      note,
      statistics: setting.statistics(readFileSync(output('client'), 'utf8')),
    };
  } finally {
    await meters.client.dispose();
    await meters.server.dispose();
  }
}

type PeakMemory = Pick<Trial, 'peakRssBytes' | 'peakRssOfEnd'>;

/** Waits for the client's end and samples what both ends hold in memory; past its time it is killed. */
async function watched(
  client: ChildProcess,
  startedAtMs: number,
  meters: Record<End, Meter>,
  limitMs: number,
  stop: AbortSignal,
): Promise<{ code: number | null; signal: NodeJS.Signals | null; exitMs: number } & PeakMemory> {
  let peakRssBytes = 0;
  const peakRssOfEnd = { client: 0, server: 0 };
  const sampler = setInterval(() => {
    const now = { client: meters.client.residentBytes(), server: meters.server.residentBytes() };
    peakRssBytes = Math.max(peakRssBytes, now.client + now.server);
    for (const end of ['client', 'server'] as const) peakRssOfEnd[end] = Math.max(peakRssOfEnd[end], now[end]);
  }, samplePauseMs);
  const kill = (): void => {
    client.kill('SIGKILL');
  };
  const timer = setTimeout(kill, limitMs);
  stop.addEventListener('abort', kill, { once: true });
  try {
    const [code, signal] = (await once(client, 'exit')) as [number | null, NodeJS.Signals | null];
    const exitMs = performance.now() - startedAtMs;
    stop.throwIfAborted();
    return { code, signal, exitMs, peakRssBytes, peakRssOfEnd };
  } finally {
    clearInterval(sampler);
    clearTimeout(timer);
    stop.removeEventListener('abort', kill);
  }
}

/** Waits until a process listens on the port in its own network. */
async function listening(server: ChildProcess, said: () => string): Promise<void> {
  const wanted = port.toString(16).toUpperCase().padStart(4, '0');
  for (const deadline = Date.now() + startMs; ; await sleep(5)) {
    if (server.exitCode !== null || server.signalCode !== null) throw new Error(`the server ended: ${said().trim()}`);
    // A listening socket (state 0A) of the namespace that the process is in.
    const table = readFileSync(`/proc/${server.pid}/net/tcp`, 'utf8');
    if (table.split('\n').some((line) => / *\d+: [0-9A-F]{8}:(\S{4}) \S+ 0A /.exec(line)?.[1] === wanted)) return;
    if (Date.now() > deadline) {
      server.kill('SIGKILL');
      await ended(server, 1000);
      throw new Error('the server does not listen');
    }
  }
}
