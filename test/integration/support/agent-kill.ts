/** A migration whose agents are killed at a point of the hand-off. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import type { JournalRecord } from '../../../src/migrate/journal.js';
import { ended } from '../../testbed/command.js';
import type { TestbedNode } from '../../testbed/node.js';
import { migrationsOf, untilJournal } from './journal-watch.js';

/** Where a service runs, and the other node. */
export interface Pair {
  source: TestbedNode;
  destination: TestbedNode;
}

/** A point of the protocol: a journal says so, or the service stands at the source's barrier. */
export type Point = JournalRecord['state'] | 'held';

/** Begins a migration and kills agents at a point of it. @returns their nodes. */
export async function killAt(
  pair: Pair,
  service: string,
  whose: keyof Pair,
  point: Point,
  victims: readonly (keyof Pair)[],
): Promise<TestbedNode[]> {
  const watched = pair[whose];
  const known = migrationsOf(watched);
  const command = pair.source.spawnCli(['migrate', service, pair.destination.agentAddress, '--json'], {
    stdio: 'ignore',
  });
  try {
    await untilReached(watched, service, point, known);
    const dead = victims.map((victim) => pair[victim]);
    await Promise.all(dead.map((node) => node.stopAgent('SIGKILL')));
    return dead;
  } finally {
    command.kill('SIGKILL');
    await ended(command, 5_000);
  }
}

async function untilReached(
  node: TestbedNode,
  service: string,
  point: Point,
  known: ReadonlySet<string>,
): Promise<void> {
  if (point !== 'held') {
    await untilJournal(node, point, known);
    return;
  }
  await untilJournal(node, 'frozen', known);
  const held = join(node.stateDirectory, 'services', service, 'workload/operation/held');
  for (const deadline = Date.now() + 30_000; !existsSync(held); await sleep(1)) {
    assert.ok(Date.now() < deadline, 'the service does not come to its barrier');
  }
}
