/** A node's journal as it lies on its disk: what tests time their faults by, and judge by afterwards. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isSettled, type JournalRecord } from '../../../src/migrate/journal.js';
import type { TestbedNode } from '../../testbed/node.js';

/** All records of a node. */
export function journalOf(node: TestbedNode): JournalRecord[] {
  const path = join(node.stateDirectory, 'journal');
  const records: JournalRecord[] = [];
  try {
    for (const name of readdirSync(path)) {
      if (name.endsWith('.json')) records.push(JSON.parse(readFileSync(join(path, name), 'utf8')) as JournalRecord);
    }
  } catch {
    // none yet, or one was just replaced: whoever waits looks again
  }
  return records;
}

/** Whether nothing is open in a node's journal. */
export function isJournalSettled(node: TestbedNode): boolean {
  return journalOf(node).every(isSettled);
}

/** Ids of the migrations of a node's journal. */
export function migrationsOf(node: TestbedNode): Set<string> {
  return new Set(journalOf(node).map(({ migration }) => migration));
}

/** Waits until a record that is not one of `known` says `state`. */
export async function untilJournal(
  node: TestbedNode,
  state: JournalRecord['state'],
  known: ReadonlySet<string>,
  limitMs = 60_000,
): Promise<void> {
  for (const deadline = Date.now() + limitMs; ; await sleep(1)) {
    const fresh = journalOf(node).filter(({ migration }) => !known.has(migration));
    if (fresh.some((record) => record.state === state)) return;
    if (Date.now() > deadline) {
      const found = fresh.map((record) => record.state).join(', ') || 'nothing new';
      throw new Error(`the journal of ${node.name} does not say ${state} but ${found}`);
    }
  }
}
