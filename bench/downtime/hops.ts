/** Hops of one service between two nodes, as its users and its operator see them. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { TestbedNode } from '../../test/testbed/node.js';
import { rootFileSystems } from '../../test/testbed/rootfs.js';
import { Testbed } from '../../test/testbed/testbed.js';
import type { DowntimeCase } from './cases.js';

/** A range that was forecast. */
interface Expected {
  low: number;
  expected: number;
  high: number;
}

/** Of `deltahop migrate --json`, its last line: what is read here. */
interface Summary {
  type: 'summary';
  result: string;
  downtimeMs: number | null;
  downtime: { stage: string; ms: number; driverMs?: number }[];
  totalMs: number;
  bytesSent: number;
  phases: { name: string; bytesSent: number }[];
  forecast: { bytesSent: Expected; totalMs: Expected | null; downtimeMs: Expected } | null;
  error?: { message: string };
}

/** How good a figure's forecast was. */
export interface Foresight {
  /** What was thought likely, by what came: 1 is right, 2 is twice as much as came. */
  ratio: number;
  /** Whether what came lay in the bounds that were given. */
  within: boolean;
}

/** One hop. */
export interface HopRow {
  case: string;
  downtimeMs: number;
  /** `stage` to milliseconds; what of it is CRIU's own under `stage (CRIU)`. */
  stages: Record<string, number>;
  totalMs: number;
  bytesSent: number;
  finalBytes: number;
  /** What was forecast before it; null without a forecast. */
  forecast: { downtime: Foresight; bytes: Foresight; total: Foresight | null } | null;
}

/** All hops of a case, and what its client saw over them. */
export interface CaseResult {
  hops: HopRow[];
  client: { requests: number; lost: number; duplicated: number; reconnects: number; longestGapMs: number };
}

const service = 'web';
const address = '10.77.0.10';
const restMs = 1500;

/**
 * Makes two nodes, places both layers at both, and moves the service there and back.
 * @throws Error if a hop fails.
 */
export async function measureHops(downtimeCase: DowntimeCase, hops: number, signal: AbortSignal): Promise<CaseResult> {
  const testbed = await Testbed.create();
  try {
    const { a, b, user } = testbed;
    await Promise.all([a.startAgent(), b.startAgent()]);
    const { base, appRedis } = await rootFileSystems();
    for (const node of [a, b]) {
      await succeed(node, ['layer', 'import', '--kind', 'base', '--name', 'debian', base]);
      await succeed(node, ['layer', 'import', '--kind', 'app', '--name', 'redis', '--parent', 'debian', appRedis]);
    }
    await succeed(a, [
      ...['service', 'add', service, '--driver', 'lxc', '--base', 'debian', '--app', 'redis'],
      ...['--set', `ip=${address}/24`, '--', '/usr/bin/redis-server', '--bind', '0.0.0.0', '--protected-mode', 'no'],
      ...['--save', '', '--dir', '/var/lib/redis'],
    ]);
    await succeed(a, ['service', 'start', service]);
    const client = await user.startRedisClient({ host: address, fillMib: downtimeCase.fillMib });
    const rows: HopRow[] = [];
    for (let hop = 0; hop < hops; hop++) {
      await sleep(restMs, undefined, { signal });
      const [from, to] = hop % 2 === 0 ? [a, b] : [b, a];
      rows.push(
        rowOf(downtimeCase.name, lastLine(await succeed(from, ['migrate', service, to.agentAddress, '--json']))),
      );
    }
    await sleep(restMs, undefined, { signal });
    const { requests, lost, duplicated, reconnects, longestGapMs } = await client.stop();
    return { hops: rows, client: { requests, lost, duplicated, reconnects, longestGapMs } };
  } finally {
    await testbed.dispose();
  }
}

async function succeed(node: TestbedNode, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await node.cli(args, { timeoutMs: 300_000 });
  if (code !== 0) throw new Error(`deltahop ${args[0]} on ${node.name}: ${stderr.trim() || stdout.trim()}`);
  return stdout;
}

function lastLine(output: string): Summary {
  return JSON.parse(output.trim().split('\n').at(-1) ?? '') as Summary;
}

function rowOf(name: string, summary: Summary): HopRow {
  const { result, downtimeMs, downtime, totalMs, bytesSent, phases, forecast, error } = summary;
  if (result !== 'moved' || downtimeMs === null) throw new Error(`${name}: ${error?.message ?? result}`);
  const stages: Record<string, number> = {};
  for (const { stage, ms, driverMs } of downtime) {
    stages[stage] = ms;
    if (driverMs !== undefined) stages[`${stage} (CRIU)`] = driverMs;
  }
  return {
    case: name,
    downtimeMs,
    stages,
    totalMs,
    bytesSent,
    finalBytes: phases.find((phase) => phase.name === 'final')?.bytesSent ?? 0,
    forecast:
      forecast === null
        ? null
        : {
            downtime: foresight(forecast.downtimeMs, downtimeMs),
            bytes: foresight(forecast.bytesSent, bytesSent),
            total: forecast.totalMs === null ? null : foresight(forecast.totalMs, totalMs),
          },
  };
}

function foresight({ low, expected, high }: Expected, came: number): Foresight {
  return { ratio: expected / came, within: low <= came && came <= high };
}
