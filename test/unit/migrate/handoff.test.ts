import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DeltahopError, isDeltahopError } from '../../../src/errors.js';
import type { LayerStore } from '../../../src/layers/store.js';
import { type MigrationContext, Outgoing, type PeerLink } from '../../../src/migrate/handoff.js';
import type { History } from '../../../src/migrate/history.js';
import { Journal } from '../../../src/migrate/journal.js';
import type { ServiceRecord } from '../../../src/migrate/ownership.js';
import type { PreparedWorkload, WorkloadDriver } from '../../../src/workload/driver.js';
import { scratchDirectory } from '../layers/scratch.js';

const test = suite('migrate/handoff');
const scratch = scratchDirectory('handoff');
let nodes = 0;

const owned: ServiceRecord = {
  name: 'web',
  driver: 'paper',
  base: `blake3:${'a'.repeat(64)}`,
  app: `blake3:${'b'.repeat(64)}`,
  settings: {},
  command: ['/bin/server'],
  health: null,
  epoch: 4,
  ownership: 'owned',
  movedTo: null,
};

const never = new AbortController().signal;
const id = '00000000-0000-4000-8000-000000000000';

/**
 * A source whose container and peer are on paper: the real journal, and a list of every step in the order in which it is
 * taken. `restart` is what a crash of the agent leaves: journal, barrier and record.
 */
class Source {
  readonly path = join(scratch, String(nodes++));
  readonly steps: string[] = [];
  readonly warnings: string[] = [];
  record: ServiceRecord = owned;
  /** The container. */
  state: 'running' | 'frozen' | 'stopped' = 'running';
  /** The barrier: null if there is none. */
  barrier: { verdict: 'commit' | 'abort' | null } | null = null;
  onCommit: string | null = null;
  /** Restores that fail before one works. */
  failures = 0;
  /** The agent dies behind the driver's recovery. */
  diesRecovering = false;
  /** Answers to `commit`, one after another; then it runs there. */
  readonly refusals: DeltahopError[] = [];
  journal!: Journal;
  outgoing!: Outgoing;

  async restart(): Promise<void> {
    await this.outgoing?.close();
    this.journal = await Journal.open(this.path);
    this.outgoing = new Outgoing(this.#context(), (message) => this.warnings.push(message));
  }

  get journalled(): string {
    return this.journal.source(id)?.state ?? 'nothing';
  }

  async freeze() {
    await this.outgoing.begin(id, this.record, 'edge-b:7701', this.onCommit);
    await this.outgoing.markFrozen(id, 'edge-b');
    this.state = 'frozen';
    this.barrier = { verdict: null };
    return {
      frozenAtMs: 0,
      files: { trees: [] },
      memory: () => Promise.reject(new Error('not part of a hand-off')),
      gaveWay: new AbortController().signal,
      commit: async () => {
        this.steps.push(`barrier is told with ${await this.#onDisk()} in the journal`);
        if (this.#decide('commit') === 'abort') throw new DeltahopError('DELTAHOP_E_CHECKPOINT', 'it gave way');
        this.state = 'stopped';
        this.barrier = null;
      },
      abort: async () => {
        this.#decide('abort');
      },
    };
  }

  /** As a barrier that has heard nothing for too long. */
  losePatience(): void {
    this.#decide('abort');
  }

  async #onDisk(): Promise<string> {
    return (await Journal.open(this.path)).source(id)?.state ?? 'nothing';
  }

  #decide(verdict: 'commit' | 'abort'): 'commit' | 'abort' | null {
    if (this.barrier === null) return null;
    this.barrier.verdict ??= verdict;
    if (this.barrier.verdict === 'abort' && this.state === 'frozen') this.state = 'running';
    return this.barrier.verdict;
  }

  readonly peer: PeerLink = {
    counters: { bytesSent: 0, bytesReceived: 0 },
    close: () => {},
    ping: () => Promise.reject(new Error('not part of a hand-off')),
    offer: () => Promise.reject(new Error('not part of a hand-off')),
    examine: () => Promise.reject(new Error('not part of a hand-off')),
    sealLayer: () => Promise.reject(new Error('not part of a hand-off')),
    arrange: () => Promise.reject(new Error('not part of a hand-off')),
    arrangeOnArrival: () => Promise.reject(new Error('not part of a hand-off')),
    prepare: () => Promise.reject(new Error('not part of a hand-off')),
    prepareOnArrival: () => Promise.reject(new Error('not part of a hand-off')),
    commit: async () => {
      this.steps.push(`destination is told while it is ${this.state} here`);
      const refusal = this.refusals.shift();
      if (refusal !== undefined) throw refusal;
      return { tookMs: 1, runningForMs: 1, epoch: 5 };
    },
    abort: async () => {},
    health: async () => ({ healthy: true, detail: 'running' }),
    verdict: () => Promise.reject(new Error('not asked by a source')),
    cede: async (_migration, epoch) => {
      this.steps.push(`destination cedes to ${epoch}`);
    },
  };

  #restored(): PreparedWorkload {
    return {
      restorerMs: 1,
      commit: async () => {
        this.steps.push('restored here');
        this.state = 'running';
      },
      abort: async () => {},
    };
  }

  #context(): MigrationContext {
    const notHere = (): never => {
      throw new Error('not part of a hand-off');
    };
    const driver: WorkloadDriver = {
      name: 'paper',
      capabilities: notHere,
      layerForm: 'tree',
      arrangesEarly: false,
      goesAtOnce: false,
      checkSettings: notHere,
      foreign: notHere,
      create: notHere,
      start: async () => {
        this.steps.push('started afresh');
        this.state = 'running';
      },
      probe: notHere,
      machine: notHere,
      admits: notHere,
      measure: notHere,
      throttling: notHere,
      throttle: notHere,
      round: notHere,
      freeze: notHere,
      staging: notHere,
      remove: notHere,
      obstacles: notHere,
      resumeStalled: async () => false,
      stop: async () => {
        this.state = 'stopped';
      },
      inspect: async () => ({ state: this.state, pid: null }),
      arrange: async () => ({
        useFiles: async () => {},
        prepare: async () => {
          if (this.failures-- > 0) throw new DeltahopError('DELTAHOP_E_RESTORE', 'a broken image');
          return this.#restored();
        },
        abandon: async () => {},
      }),
      decideFreeze: async (_workload, verdict) => this.#decide(verdict),
      recover: async () => {
        if (this.#decide('abort') === 'commit') this.state = 'stopped';
        this.barrier = null;
        if (this.diesRecovering) throw new Error('the agent was killed');
        return { released: false };
      },
    };
    return {
      nodeName: 'edge-a',
      journal: this.journal,
      ownership: {
        read: async () => this.record,
        compareAndSet: async (_service, expected, next) => {
          assert.is(expected, this.record.epoch);
          this.record = next;
        },
      },
      layers: null as unknown as LayerStore,
      driver: () => driver,
      workload: (record) => ({ ...record, path: '/', basePath: '/', appPath: '/' }),
      connectPeer: () => this.peer,
      ownAddress: async () => 'edge-a:7701',
      history: {} as unknown as History,
      compressedShare: notHere,
      connectTransfers: notHere,
    };
  }
}

async function source(): Promise<Source> {
  const made = new Source();
  await made.restart();
  return made;
}

async function failureOf(work: Promise<unknown>): Promise<unknown> {
  return await work.then(
    () => null,
    (error: unknown) => error,
  );
}

async function until(condition: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 10_000; !condition(); await sleep(5)) {
    if (Date.now() > deadline) throw new Error('it did not come to that');
  }
}

/** What the source does from the freeze to a crash: each is a point between two steps of the protocol. */
async function upTo(node: Source, point: 'frozen' | 'journalled' | 'decided' | 'departed'): Promise<void> {
  const frozen = await node.freeze();
  if (point === 'frozen') return;
  if (point === 'journalled') {
    const record = node.journal.source(id);
    assert.ok(record !== null);
    await node.journal.write({ ...record, state: 'committed' });
    return;
  }
  await node.outgoing.decide(id, frozen);
  if (point === 'departed') node.record = { ...owned, epoch: 5, ownership: 'departed', movedTo: 'edge-b:7701' };
}

test('the decision is on disk before the barrier hears it, and the service is dead before the destination does', async () => {
  const node = await source();
  await node.outgoing.decide(id, await node.freeze());
  const reply = await node.outgoing.complete(id, node.peer, () => {}, never);
  assert.is(reply.epoch, 5);
  assert.equal(node.steps, [
    'barrier is told with committed in the journal',
    'destination is told while it is stopped here',
  ]);
  assert.equal([node.record.epoch, node.record.ownership, node.record.movedTo], [5, 'departed', 'edge-b:7701']);
  const outcome = await node.outgoing.verify(id, node.peer, never);
  assert.equal([outcome?.healthy, outcome?.kept], [true, 'destination']);
  assert.is(node.journalled, 'healthy');
});

test('a destination that asks hears nothing final while the decision is open', async () => {
  const node = await source();
  const frozen = await node.freeze();
  assert.is(node.outgoing.verdict(id).verdict, 'undecided');
  let during = '';
  const commit = frozen.commit;
  frozen.commit = async () => {
    during = node.outgoing.verdict(id).verdict;
    await commit();
  };
  await node.outgoing.decide(id, frozen);
  assert.is(during, 'undecided');
  assert.equal(node.outgoing.verdict(id), { verdict: 'commit', nodeName: 'edge-a' });
  assert.is(node.outgoing.verdict('11111111-1111-4111-8111-111111111111').verdict, 'abort');
});

test('a barrier that gave way first voids the journalled commit', async () => {
  const node = await source();
  const frozen = await node.freeze();
  node.losePatience();
  assert.ok(isDeltahopError(await failureOf(node.outgoing.decide(id, frozen)), 'DELTAHOP_E_CHECKPOINT'));
  assert.equal([node.journalled, node.state, node.outgoing.verdict(id).verdict], ['aborted', 'running', 'abort']);
  assert.is(node.record.ownership, 'owned');
});

test('a service that does not die here is told to nobody', async () => {
  const node = await source();
  const frozen = await node.freeze();
  frozen.commit = async () => {
    if (node.barrier !== null) node.barrier.verdict = 'commit';
    throw new DeltahopError('DELTAHOP_E_WORKLOAD', 'processes do not end');
  };
  await node.outgoing.decide(id, frozen);
  assert.equal([node.journalled, node.state, node.outgoing.verdict(id).verdict], ['committed', 'stopped', 'commit']);
});

for (const point of ['frozen', 'journalled', 'decided', 'departed'] as const) {
  for (const patience of ['kept', 'lost'] as const) {
    test(`a crash when ${point}, the barrier's patience ${patience}: one owner, and recovery ends`, async () => {
      const node = await source();
      await upTo(node, point);
      if (patience === 'lost') node.losePatience();
      await node.restart();
      await node.outgoing.recoverHere();
      const stays = point === 'frozen' || (point === 'journalled' && patience === 'lost');
      assert.is(node.outgoing.verdict(id).verdict, stays ? 'abort' : 'commit');
      assert.is(node.state, stays ? 'running' : 'stopped');
      assert.is(node.record.ownership, stays ? 'owned' : 'departed');
      node.outgoing.pursueAll();
      await until(() => ['aborted', 'healthy'].includes(node.journalled));
      assert.is(node.journalled, stays ? 'aborted' : 'healthy');
      assert.is(node.steps.filter((step) => step.startsWith('destination is told')).length, stays ? 0 : 1);
      assert.not(node.steps.includes('destination is told while it is running here'));
      await node.outgoing.close();
    });
  }
}

test('an unreachable destination is told again; a final answer ends it', async () => {
  const node = await source();
  await node.outgoing.decide(id, await node.freeze());
  node.refusals.push(new DeltahopError('DELTAHOP_E_LINK', 'gone'), new DeltahopError('DELTAHOP_E_NOT_FOUND', 'who?'));
  const warnings: string[] = [];
  const failure = await failureOf(node.outgoing.complete(id, node.peer, (message) => warnings.push(message), never));
  assert.ok(isDeltahopError(failure, 'DELTAHOP_E_NOT_FOUND'));
  assert.is(warnings.length, 1);
  assert.is(node.journalled, 'committed', 'who does not know the migration has not said that it will never run it');
  assert.is(node.state, 'stopped');
});

test('what the destination refuses for good goes on here, as a later owner', async () => {
  const node = await source();
  await node.outgoing.decide(id, await node.freeze());
  node.refusals.push(new DeltahopError('DELTAHOP_E_NOT_RUNNING', 'its image is broken'));
  const failure = await failureOf(node.outgoing.complete(id, node.peer, () => {}, never));
  assert.ok(isDeltahopError(failure, 'DELTAHOP_E_NOT_RUNNING'));
  assert.equal([node.state, node.record.ownership, node.record.epoch], ['running', 'owned', 6]);
  assert.equal([node.journalled, node.outgoing.verdict(id).verdict], ['aborted', 'abort']);
});

test('an operator keeps the source: a later owner here, and the destination hears of it when it is back', async () => {
  const node = await source();
  await upTo(node, 'decided');
  await node.restart();
  await node.outgoing.recoverHere();
  const record = await node.outgoing.resolve(id, 'source');
  assert.equal([node.state, node.record.ownership, node.record.epoch], ['running', 'owned', 6]);
  assert.is(record.state, 'aborted');
  await until(() => node.journal.source(id)?.untoldEpoch === null);
  assert.ok(node.steps.includes('destination cedes to 6'));
  await node.outgoing.close();
});

test('an operator need not wait for a job that tells a destination which is gone', async () => {
  const node = await source();
  await node.outgoing.decide(id, await node.freeze());
  for (let count = 0; count < 99; count++) node.refusals.push(new DeltahopError('DELTAHOP_E_LINK', 'gone'));
  const job = failureOf(node.outgoing.complete(id, node.peer, () => {}, never)).then((failure) => {
    node.outgoing.leave(id);
    return failure;
  });
  await node.outgoing.detach(id);
  assert.ok(isDeltahopError(await job, 'DELTAHOP_E_LINK'));
  await node.outgoing.resolve(id, 'source');
  assert.equal([node.state, node.record.epoch], ['running', 6]);
  await node.outgoing.close();
});

for (const [ifFails, kept, journalled, owner] of [
  ['ask', 'both', 'committed', 'departed'],
  ['keep', 'destination', 'healthy', 'departed'],
  ['back', 'source', 'aborted', 'owned'],
] as const) {
  test(`a service that does not become well: ${ifFails}`, async () => {
    const node = await source();
    node.record = { ...owned, health: { probe: 'tcp:1', forMs: 1, limitMs: 1, ifFails } };
    await node.outgoing.decide(id, await node.freeze());
    await node.outgoing.complete(id, node.peer, () => {}, never);
    node.peer.health = async () => ({ healthy: false, detail: 'nobody listens' });
    const outcome = await node.outgoing.verify(id, node.peer, never);
    assert.equal(outcome, { healthy: false, detail: 'nobody listens', kept });
    assert.equal([node.journalled, node.record.ownership], [journalled, owner]);
    // The copy there has ended before this one begins.
    const steps = ifFails === 'back' ? ['destination cedes to 6', 'restored here'] : [];
    assert.equal(node.steps.slice(2), steps);
    if (ifFails !== 'ask') return;
    await node.outgoing.resolve(id, 'source');
    assert.equal(node.steps.slice(2), ['destination cedes to 6', 'restored here']);
    assert.equal([node.state, node.record.ownership, node.record.epoch], ['running', 'owned', 6]);
    await node.outgoing.close();
  });
}

test('a service that becomes well after its time needs no operator', async () => {
  const node = await source();
  node.record = { ...owned, health: { probe: 'tcp:1', forMs: 1, limitMs: 1, ifFails: 'ask' } };
  await node.outgoing.decide(id, await node.freeze());
  await node.outgoing.complete(id, node.peer, () => {}, never);
  let looks = 0;
  node.peer.health = async () => {
    looks++;
    return { healthy: false, detail: 'its disk is full' };
  };
  assert.is((await node.outgoing.verify(id, node.peer, never))?.kept, 'both');
  node.outgoing.leave(id);
  await node.outgoing.recoverNow();
  assert.is(node.journalled, 'committed');
  const seen = looks;
  await node.outgoing.recoverNow();
  assert.is(looks, seen + 1, 'looks of a later try');
  node.peer.health = async () => ({ healthy: true, detail: '' });
  await node.outgoing.recoverNow();
  assert.equal([node.journalled, node.record.ownership], ['healthy', 'departed']);
  await node.outgoing.close();
});

test('a destination that can not be told to give it back keeps it', async () => {
  const node = await source();
  node.record = { ...owned, health: { probe: 'tcp:1', forMs: 1, limitMs: 1, ifFails: 'back' } };
  await node.outgoing.decide(id, await node.freeze());
  await node.outgoing.complete(id, node.peer, () => {}, never);
  node.peer.health = () => Promise.reject(new DeltahopError('DELTAHOP_E_LINK', 'silent'));
  node.peer.cede = () => Promise.reject(new DeltahopError('DELTAHOP_E_LINK', 'silent'));
  const outcome = await node.outgoing.verify(id, node.peer, never);
  assert.equal([outcome?.healthy, outcome?.kept, node.journalled, node.state], [false, 'both', 'committed', 'stopped']);
});

test('a crash after the destination has given it back: it goes on here', async () => {
  const node = await source();
  await node.outgoing.decide(id, await node.freeze());
  await node.outgoing.complete(id, node.peer, () => {}, never);
  node.peer.health = () => Promise.reject(new DeltahopError('DELTAHOP_E_NOT_RUNNING', 'it was given back'));
  await node.restart();
  await node.outgoing.recoverHere();
  node.outgoing.pursueAll();
  await until(() => node.state === 'running');
  await until(() => node.journalled === 'aborted');
  assert.equal([node.record.ownership, node.record.epoch], ['owned', 6]);
  await node.outgoing.close();
});

test('a crash after the destination has acknowledged: what the freeze left here is cleared', async () => {
  const node = await source();
  await node.outgoing.decide(id, await node.freeze());
  await node.outgoing.complete(id, node.peer, () => {}, never);
  // The driver clears it after the commit, and had not come to that.
  node.barrier = { verdict: 'commit' };
  await node.restart();
  await node.outgoing.recoverHere();
  assert.equal([node.barrier, node.state, node.record.ownership], [null, 'stopped', 'departed']);
  node.outgoing.pursueAll();
  await until(() => node.journalled === 'healthy');
  await node.outgoing.close();
});

test('a second migration waits until the first is settled', async () => {
  const node = await source();
  await node.outgoing.decide(id, await node.freeze());
  const second = node.outgoing.begin('11111111-1111-4111-8111-111111111111', node.record, 'edge-c:7701', null);
  assert.ok(isDeltahopError(await failureOf(second), 'DELTAHOP_E_BUSY'));
});

test('a destination that never comes back does not keep the service here for ever', async () => {
  const node = await source();
  await upTo(node, 'decided');
  await node.restart();
  node.peer.cede = () => Promise.reject(new DeltahopError('DELTAHOP_E_LINK', 'gone'));
  await node.outgoing.resolve(id, 'source');
  assert.is(node.journal.source(id)?.untoldEpoch, 6);
  await node.outgoing.begin('11111111-1111-4111-8111-111111111111', node.record, 'edge-c:7701', null);
  await node.outgoing.close();
});

test('a damaged journal is not guessed at', async () => {
  const node = await source();
  await node.freeze();
  const record = node.journal.source(id);
  assert.ok(record !== null);
  await node.journal.write({ ...record, state: 'perhaps' as 'frozen' });
  assert.ok(isDeltahopError(await failureOf(Journal.open(node.path)), 'DELTAHOP_E_CORRUPT'));
});

test('what has run on is on record before its verdict is cleared away', async () => {
  const node = await source();
  await upTo(node, 'journalled');
  node.losePatience();
  node.diesRecovering = true;
  await node.restart();
  await node.outgoing.recoverHere();
  assert.is(node.barrier, null);
  // And the node loses its power: nothing of it is left to be seen.
  node.diesRecovering = false;
  node.state = 'stopped';
  await node.restart();
  await node.outgoing.recoverHere();
  assert.equal([node.journalled, node.outgoing.verdict(id).verdict], ['aborted', 'abort']);
  assert.is(node.record.ownership, 'owned');
});

test('an operator who keeps the source after all, and then the destination: nobody is told to yield', async () => {
  const node = await source();
  await upTo(node, 'decided');
  await node.restart();
  node.failures = 99;
  assert.ok(isDeltahopError(await failureOf(node.outgoing.resolve(id, 'source')), 'DELTAHOP_E_RESTORE'));
  const { state, takenBack, untoldEpoch } = await node.outgoing.resolve(id, 'destination');
  assert.equal([state, takenBack, untoldEpoch, node.state], ['healthy', false, null, 'stopped']);
  assert.is(node.outgoing.verdict(id).verdict, 'commit');
  assert.not(node.steps.some((step) => step.startsWith('destination cedes')));
  await node.outgoing.close();
});

test('what runs here by an operator’s word is not left to a destination that may have heard of it', async () => {
  const node = await source();
  await upTo(node, 'decided');
  await node.restart();
  node.peer.cede = () => Promise.reject(new DeltahopError('DELTAHOP_E_LINK', 'gone'));
  await node.outgoing.resolve(id, 'source');
  assert.ok(isDeltahopError(await failureOf(node.outgoing.resolve(id, 'destination')), 'DELTAHOP_E_UNSUPPORTED'));
  assert.equal([node.state, node.record.ownership], ['running', 'owned']);
  await node.outgoing.close();
});

test('what an operator leaves to a destination that turns out not to have it goes on here', async () => {
  const node = await source();
  await upTo(node, 'decided');
  await node.restart();
  node.refusals.push(new DeltahopError('DELTAHOP_E_NOT_RUNNING', 'its image is broken'));
  assert.ok(isDeltahopError(await failureOf(node.outgoing.resolve(id, 'destination')), 'DELTAHOP_E_NOT_RUNNING'));
  assert.equal([node.state, node.record.ownership, node.journalled], ['running', 'owned', 'aborted']);
  await node.outgoing.close();
});

test('what the destination has given up can not be left to it', async () => {
  const node = await source();
  await node.outgoing.decide(id, await node.freeze());
  node.refusals.push(new DeltahopError('DELTAHOP_E_NOT_RUNNING', 'its image is broken'));
  node.failures = 1;
  await failureOf(node.outgoing.complete(id, node.peer, () => {}, never));
  assert.ok(isDeltahopError(await failureOf(node.outgoing.resolve(id, 'destination')), 'DELTAHOP_E_NOT_RUNNING'));
  node.outgoing.leave(id);
  await until(() => node.state === 'running');
  await node.outgoing.close();
});

test('a service that can not be restored here is said so once, and its operator can have it started afresh', async () => {
  const node = await source();
  await upTo(node, 'decided');
  await node.restart();
  node.failures = 99;
  await failureOf(node.outgoing.resolve(id, 'source'));
  await node.outgoing.recoverNow();
  await node.outgoing.recoverNow();
  assert.equal([node.warnings.length, node.outgoing.trouble(id)], [1, 'a broken image']);
  assert.equal([node.state, node.journalled], ['stopped', 'committed']);
  await node.outgoing.resolve(id, 'source');
  assert.equal([node.steps.at(-1), node.state, node.journalled], ['started afresh', 'running', 'aborted']);
  await node.outgoing.close();
});

test('an end of the agent ends the look at a service, and says nothing against it', async () => {
  const node = await source();
  node.record = { ...owned, health: { probe: 'tcp:1', forMs: 60_000, limitMs: 60_000, ifFails: 'back' } };
  await node.outgoing.decide(id, await node.freeze());
  await node.outgoing.complete(id, node.peer, () => {}, never);
  const looking = node.outgoing.verify(id, node.peer, never);
  await node.outgoing.close();
  assert.is(await looking, null);
  assert.equal([node.journalled, node.record.ownership], ['committed', 'departed']);
});

test('a service that comes back while it is still looked at: the look ends, and nothing more is done here', async () => {
  const node = await source();
  node.record = { ...owned, health: { probe: 'tcp:1', forMs: 60_000, limitMs: 60_000, ifFails: 'keep' } };
  await node.outgoing.decide(id, await node.freeze());
  await node.outgoing.complete(id, node.peer, () => {}, never);
  const job = node.outgoing.verify(id, node.peer, never).then((outcome) => {
    node.outgoing.leave(id);
    return outcome;
  });
  await node.outgoing.cameBack(id);
  assert.is(await job, null);
  assert.is(node.journalled, 'healthy');
  await node.outgoing.close();
});

test('the hook hears where the service is, after a crash too, and that it is back', async () => {
  const node = await source();
  node.onCommit = join(scratch, 'hook');
  const said = join(scratch, 'hook-said');
  const line = '$DELTAHOP_SERVICE $DELTAHOP_FROM $DELTAHOP_TO $DELTAHOP_TO_ADDRESS $DELTAHOP_EPOCH';
  writeFileSync(node.onCommit, `#!/bin/sh\necho "${line}" >>${said}\n`, { mode: 0o755 });
  node.record = { ...owned, health: { probe: 'tcp:1', forMs: 1, limitMs: 1, ifFails: 'back' } };
  await node.outgoing.decide(id, await node.freeze());
  await node.outgoing.complete(id, node.peer, () => {}, never);
  node.peer.health = async () => ({ healthy: false, detail: 'nobody listens' });
  await node.restart();
  await node.outgoing.recoverHere();
  node.outgoing.pursueAll();
  await until(() => node.journalled === 'aborted');
  const [to, back] = readFileSync(said, 'utf8').trim().split('\n');
  assert.equal([to, back], ['web edge-a edge-b edge-b:7701 5', 'web edge-b edge-a edge-a:7701 6']);
  await node.outgoing.close();
});

test.run();
