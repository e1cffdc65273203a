/** Hand-offs that a crash or a cut has left open, as the operator of this node sees and settles them. */
import { DeltahopError } from '../errors.js';
import type { Outgoing } from '../migrate/handoff.js';
import type { IncomingMigrations } from '../migrate/incoming.js';
import { isSettled, type Journal, type JournalRecord } from '../migrate/journal.js';
import type { HandOffView } from './messages.js';
import type { ServiceStore } from './services.js';

/** Longer than a try at an unreachable peer takes; what is not done by then goes on by itself. */
const recoverLimitMs = 20_000;

/**
 * Refuses what would touch a service that may be another node's by now, or become so.
 * @throws DeltahopError DELTAHOP_E_BUSY
 */
export function refuseUnsettled(journal: Journal, service: string): void {
  // That the other side has not heard yet what its operator decided is no obstacle.
  const [open] = journal.undecided(service);
  if (open === undefined) return;
  throw new DeltahopError(
    'DELTAHOP_E_BUSY',
    `the hand-off of ${service} with ${open.peer} is not settled (${waitsFor(open)}); \`deltahop recover\` tries to`,
  );
}

/** The open hand-offs of one node. */
export class HandOffs {
  readonly #journal: Journal;
  readonly #services: ServiceStore;
  readonly #outgoing: Outgoing;
  readonly #incoming: IncomingMigrations;

  constructor(journal: Journal, services: ServiceStore, outgoing: Outgoing, incoming: IncomingMigrations) {
    this.#journal = journal;
    this.#services = services;
    this.#outgoing = outgoing;
    this.#incoming = incoming;
  }

  /** Tries at once what is waited for. @returns every hand-off that was open, as it is afterwards. */
  async recover(): Promise<HandOffView[]> {
    const open = this.#journal.list().filter((record) => !isSettled(record) && !this.#isLive(record));
    const limit = new Promise<void>((resolve) => setTimeout(resolve, recoverLimitMs).unref());
    await Promise.race([Promise.all([this.#outgoing.recoverNow(), this.#incoming.recoverNow()]), limit]);
    return open.map((record) => this.#view(this.#now(record)));
  }

  /**
   * Settles a service's hand-off as the operator says, who knows that the other node is gone.
   * @throws DeltahopError DELTAHOP_E_NOT_FOUND if nothing is open, DELTAHOP_E_BUSY while a job carries it.
   */
  async resolve(service: string, keep: 'source' | 'destination'): Promise<HandOffView> {
    const record = this.#journal.unsettled(service).at(-1);
    if (record === undefined) {
      throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `no hand-off of ${service} is open on this node`);
    }
    if (this.#isLive(record)) {
      throw new DeltahopError(
        'DELTAHOP_E_BUSY',
        `the migration of ${service} is still under way; \`deltahop cancel\` ends it`,
      );
    }
    // What arrives has its service's lock already.
    if (record.side === 'destination') return this.#view(await this.#incoming.resolve(record.migration, keep));
    await this.#outgoing.detach(record.migration);
    // The job that has just left ends its operation on the service with its next step.
    await new Promise((resolve) => setImmediate(resolve));
    const resolved = await this.#services.exclusively(service, 'its resolution', () =>
      this.#outgoing.resolve(record.migration, keep),
    );
    return this.#view(resolved);
  }

  /** The other side's operator has decided for it. */
  async cede(migration: string, epoch: number): Promise<void> {
    const [source, destination] = [this.#journal.source(migration), this.#journal.destination(migration)];
    if (source !== null) await this.#outgoing.cede(source, epoch);
    else if (destination !== null) await this.#incoming.cede(destination, epoch);
    else throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `this node knows no migration ${migration}`);
  }

  #view(record: JournalRecord): HandOffView {
    const { service, migration, side, peer, state } = record;
    const settled = isSettled(record);
    const trouble = side === 'source' ? this.#outgoing.trouble(migration) : this.#incoming.trouble(migration);
    const open = settled ? '' : waitsFor(record);
    return { service, migration, side, peer, state, settled, waitsFor: open, trouble: trouble ?? '' };
  }

  #isLive({ side, migration }: JournalRecord): boolean {
    return side === 'source' ? this.#outgoing.isLive(migration) : this.#incoming.isLive(migration);
  }

  #now(record: JournalRecord): JournalRecord {
    return this.#journal.list().find(({ migration }) => migration === record.migration) ?? record;
  }
}

function waitsFor(record: JournalRecord): string {
  if (record.untoldEpoch !== null) return `${record.peer} to hear what its operator decided`;
  if (record.side === 'destination') {
    if (record.state === 'prepared') return `the decision of ${record.peer}`;
    return record.state === 'committed' ? 'its first run here' : 'the rest of it to arrive';
  }
  if (record.takenBack) return 'its restart here';
  if (record.state !== 'committed') return 'its resumption here';
  return record.acknowledged ? `it to be healthy at ${record.peer}` : `${record.peer} to hear that it owns the service`;
}
