/** One migration under way, as it can be seen from outside: the agents' events, both journals, both barriers. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { JournalRecord } from '../../src/migrate/journal.js';
import type { MigrationEvent, MigrationSummary } from '../../src/migrate/phases.js';
import { askAgent } from '../integration/support/agent-client.js';
import type { TestbedNode } from '../testbed/node.js';

/** A busy machine is no fault: the service may stand still for as long as the barrier's own patience. */
const maxDowntimeMs = 20_000;

/** A migration that was begun, with its two nodes. */
export class Attempt {
  readonly source: TestbedNode;
  readonly destination: TestbedNode;
  readonly service: string;
  readonly startedAt = performance.now();
  /** Fulfilled with its summary; null if its agent's answer broke off before. */
  readonly ended: Promise<MigrationSummary | null>;
  #summary: MigrationSummary | null = null;
  #over = false;
  #phase = '';
  /** Slots of which bytes were seen to move, by phase. */
  readonly #moving = new Set<string>();
  #migration: string | null = null;
  readonly #known: ReadonlySet<string>;
  readonly #records = new Map<string, { mtimeMs: number; record: JournalRecord }>();

  private constructor(source: TestbedNode, destination: TestbedNode, service: string) {
    this.source = source;
    this.destination = destination;
    this.service = service;
    this.#known = new Set([...journalNames(source), ...journalNames(destination)]);
    this.ended = this.#follow();
  }

  static begin(source: TestbedNode, destination: TestbedNode, service: string): Attempt {
    return new Attempt(source, destination, service);
  }

  /** Whether its job has ended, or its agent. */
  get over(): boolean {
    return this.#over;
  }

  get summary(): MigrationSummary | null {
    return this.#summary;
  }

  /** The phase that is under way, by the last event. */
  get phase(): string {
    return this.#phase;
  }

  /** Whether bytes of a slot that begins so have moved in a phase. */
  hasMoved(phase: string, slot: string): boolean {
    return [...this.#moving].some((seen) => seen.startsWith(`${phase} ${slot}`));
  }

  /** What a side's journal says of it now; null before it says anything. */
  record(side: 'source' | 'destination'): JournalRecord | null {
    const node = this[side];
    this.#migration ??= journalNames(node).find((name) => !this.#known.has(name)) ?? null;
    if (this.#migration === null) return null;
    const path = join(node.stateDirectory, 'journal', this.#migration);
    try {
      const { mtimeMs } = statSync(path);
      const read = this.#records.get(path);
      if (read !== undefined && read.mtimeMs === mtimeMs) return read.record;
      const record = JSON.parse(readFileSync(path, 'utf8')) as JournalRecord;
      this.#records.set(path, { mtimeMs, record });
      return record;
    } catch {
      return null;
    }
  }

  /** What kind of operation a side's driver has under way; null if none. */
  operation(side: 'source' | 'destination'): string | null {
    try {
      return readFileSync(this.mark(side, 'kind'), 'utf8');
    } catch {
      return null;
    }
  }

  /** Whether a side's barrier shows a mark. */
  has(side: 'source' | 'destination', name: string): boolean {
    return statSync(this.mark(side, name), { throwIfNoEntry: false }) !== undefined;
  }

  /** Whether a side's driver has a thing of that name. */
  keeps(side: 'source' | 'destination', name: string): boolean {
    const path = join(this[side].stateDirectory, 'services', this.service, 'workload', name);
    return statSync(path, { throwIfNoEntry: false }) !== undefined;
  }

  /** Path of a file of a side's operation. */
  mark(side: 'source' | 'destination', name: string): string {
    return join(this[side].stateDirectory, 'services', this.service, 'workload/operation', name);
  }

  /** Where it stands, in words. */
  get standing(): string {
    const [from, to] = (['source', 'destination'] as const).map((side) => {
      const operation = this.operation(side);
      const marks = ['held', 'ended', 'released'].filter((name) => this.has(side, name));
      return `${this.record(side)?.state ?? '-'}${operation === null ? '' : ` ${[operation, ...marks].join('+')}`}`;
    });
    return `${this.#phase}: ${from} / ${to}`;
  }

  async #follow(): Promise<MigrationSummary | null> {
    try {
      await askAgent(this.source, async (agent) => {
        for await (const event of agent.migrate(this.service, {
          to: this.destination.agentAddress,
          onCommit: null,
          maxDowntimeMs,
          autoConverge: false,
        })) {
          const seen = event as unknown as MigrationEvent | MigrationSummary;
          if (seen.type === 'phase' && seen.state === 'start') this.#phase = seen.name;
          if (seen.type === 'progress' && seen.doneBytes > 0) this.#moving.add(`${seen.phase} ${seen.what}`);
          if (seen.type === 'summary') this.#summary = seen;
        }
      });
    } catch {
      // Its agent was killed: the journal tells the rest.
    }
    this.#over = true;
    return this.#summary;
  }
}

function journalNames(node: TestbedNode): string[] {
  try {
    return readdirSync(join(node.stateDirectory, 'journal')).filter((name) => name.endsWith('.json'));
  } catch {
    return [];
  }
}
