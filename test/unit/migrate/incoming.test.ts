import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DeltahopError, isDeltahopError } from '../../../src/errors.js';
import type { LayerStore } from '../../../src/layers/store.js';
import { IncomingMigrations } from '../../../src/migrate/incoming.js';
import { Journal } from '../../../src/migrate/journal.js';
import type { Offer, VerdictReply } from '../../../src/migrate/offer.js';
import type { ServiceRecord } from '../../../src/migrate/ownership.js';
import type { TicketOptions, TransferServer } from '../../../src/transfer/transfer-server.js';
import type { InstanceTree, WorkloadDriver } from '../../../src/workload/driver.js';
import { scratchDirectory } from '../layers/scratch.js';

const test = suite('migrate/incoming');
const scratch = scratchDirectory('incoming');
let nodes = 0;

const base = `blake3:${'a'.repeat(64)}`;
const app = `blake3:${'b'.repeat(64)}`;
const id = '00000000-0000-4000-8000-000000000000';
const layer = { form: 'tree', name: 'x', parent: null, bytes: 1 } as const;
const offer: Offer = {
  migration: id,
  sourceName: 'edge-a',
  sourceAddress: '10.0.0.1:7701',
  service: { name: 'web', driver: 'paper', settings: {}, command: ['/bin/server'], health: null, epoch: 4 },
  layers: [
    { ...layer, kind: 'base', digest: base },
    { ...layer, kind: 'app', digest: app },
  ],
  machine: { cpu: 'paper' },
  instance: { memoryBytes: 1, filesBytes: 1 },
};

const policy = { probe: 'tcp:1', forMs: 1, limitMs: 1, ifFails: 'ask' } as const;

/** A destination whose container, layers and source are on paper, with the real journal. */
class Destination {
  readonly path = join(scratch, String(nodes++));
  readonly steps: string[] = [];
  readonly warnings: string[] = [];
  /** What became of each restore that was arranged. */
  readonly arrangements: string[] = [];
  record: ServiceRecord | null = null;
  state: 'running' | 'frozen' | 'stopped' = 'stopped';
  /** The barrier's mark that a restore was let go. */
  released = false;
  /** Restores that fail before one works. */
  failures = 0;
  verdict: VerdictReply | null = null;
  taken = new Set<string>();
  /** The local operation on the service. */
  operation: string | null = null;
  sourceMaySend = true;
  sourceIsGone = false;
  stagingFails = false;
  /** Its driver can arrange a restore while all is still to change. */
  arrangesEarly = false;
  /** No room for the record of ownership. */
  fullDisk = false;
  /** A transfer into a slot has come to its end. */
  onTransfer: (slot: string) => void = () => {};
  journal!: Journal;
  incoming!: IncomingMigrations;

  async restart(): Promise<void> {
    this.operation = null;
    mkdirSync(join(this.path, 'memory'), { recursive: true });
    this.journal = await Journal.open(join(this.path, 'journal'));
    this.incoming = new IncomingMigrations(this.#context(), (message) => this.warnings.push(message));
  }

  get journalled(): string {
    return this.journal.destination(id)?.state ?? 'nothing';
  }

  #tree(name: string, durable: boolean): InstanceTree {
    const [path, recordPath] = [join(this.path, name), join(this.path, `${name}-record`)];
    return {
      name,
      path,
      excludeXattrs: [],
      durable,
      inPlace: false,
      timesTell: true,
      recordPath,
      basis: null,
      common: [],
    };
  }

  #context() {
    const driver: Partial<WorkloadDriver> = {
      name: 'paper',
      capabilities: async () => [],
      probe: async () => 'nobody listens',
      machine: async () => ({ cpu: 'cardboard' }),
      admits: async (source) => [
        {
          name: 'cpu',
          ok: source['cpu'] === 'paper',
          detail: `its processor is of ${source['cpu']}`,
          remedy: 'use paper',
        },
      ],
      layerForm: 'tree',
      arrangesEarly: this.arrangesEarly,
      checkSettings: (_name, settings) => settings,
      create: async () => {},
      staging: async () => {
        if (this.stagingFails) throw new DeltahopError('DELTAHOP_E_IO', 'no staging');
        return { trees: [this.#tree('files', true), this.#tree('memory', false)] };
      },
      stop: async () => {
        this.state = 'stopped';
      },
      inspect: async () => ({ state: this.state, pid: null }),
      recover: async () => {
        if (this.state === 'frozen') this.state = 'stopped';
        const { released } = this;
        this.released = false;
        return { released };
      },
      arrange: async () => {
        if (this.state !== 'stopped') throw new DeltahopError('DELTAHOP_E_BUSY', 'already runs here');
        this.arrangements.push('open');
        const end = (how: string) => void this.arrangements.splice(-1, 1, how);
        return {
          useFiles: async () => {
            if (this.failures-- > 0) {
              end('taken back');
              throw new DeltahopError('DELTAHOP_E_RESTORE', 'no room');
            }
            end('with files');
          },
          prepare: async () => {
            end('used');
            if (this.failures-- > 0) throw new DeltahopError('DELTAHOP_E_RESTORE', 'a broken image');
            this.steps.push('restored');
            this.state = 'frozen';
            return {
              restorerMs: 1,
              commit: async () => {
                this.steps.push(`let go with ${this.journalled} in the journal`);
                this.state = 'running';
              },
              abort: async () => {
                this.state = 'stopped';
              },
            };
          },
          abandon: async () => end('abandoned'),
        };
      },
    };
    return {
      nodeName: 'edge-b',
      statePath: scratch,
      journal: this.journal,
      ownership: {
        read: async () => this.record,
        compareAndSet: async (_service: string, expected: number | null, next: ServiceRecord) => {
          if (next.ownership === 'owned' && this.fullDisk) throw new DeltahopError('DELTAHOP_E_NO_SPACE', 'full');
          assert.is(expected, this.record?.epoch ?? null);
          this.record = next;
        },
      },
      layers: {
        has: async () => false,
        receiveStaging: async (digest: string) => {
          if (this.taken.has(digest)) throw new DeltahopError('DELTAHOP_E_BUSY', 'arriving already');
          this.taken.add(digest);
          return '/';
        },
        releaseStaging: (digest: string) => void this.taken.delete(digest),
      } as unknown as LayerStore,
      transfers: {
        issueTicket: ({ onEvent }: TicketOptions) => {
          this.onTransfer = (slot) =>
            onEvent?.({
              type: 'completed',
              slot,
              report: { statistics: {}, notes: [] },
              bytesSent: 0,
              bytesReceived: 0,
            });
          return 'ticket';
        },
        revokeTicket: async () => {},
        isOpen: () => this.sourceMaySend,
      } as unknown as TransferServer,
      driver: () => driver as WorkloadDriver,
      workload: (record: ServiceRecord) => ({ ...record, path: '/', basePath: '/', appPath: '/' }),
      cameBack: async () => {},
      begin: (_service: string, operation: string) => {
        if (this.operation !== null) throw new DeltahopError('DELTAHOP_E_BUSY', this.operation);
        this.operation = operation;
        return () => {
          this.operation = null;
        };
      },
      connectPeer: () => ({
        verdict: async () => {
          if (this.verdict === null) throw new DeltahopError('DELTAHOP_E_LINK', 'gone');
          return this.verdict;
        },
        cede: async (_migration: string, epoch: number) => {
          if (this.verdict === null && this.sourceIsGone) throw new DeltahopError('DELTAHOP_E_LINK', 'gone');
          this.steps.push(`source cedes to ${epoch}`);
        },
        close: () => {},
      }),
    };
  }
}

async function destination(upTo: 'staging' | 'prepared'): Promise<Destination> {
  const made = new Destination();
  await made.restart();
  await made.incoming.offer(offer);
  if (upTo === 'prepared') await made.incoming.prepare(id);
  return made;
}

async function refusalOf(work: Promise<unknown>): Promise<string> {
  return await work.then(
    () => 'none',
    (error: unknown) => (isDeltahopError(error) ? error.code : String(error)),
  );
}

async function until(condition: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 10_000; !condition(); await sleep(5)) {
    if (Date.now() > deadline) throw new Error('it did not come to that');
  }
}

test('it does not count as run before it is owned, and is not let go again for that', async () => {
  const node = await destination('prepared');
  node.fullDisk = true;
  assert.is(await refusalOf(node.incoming.commit(id)), 'DELTAHOP_E_NO_SPACE');
  assert.equal([node.journalled, node.state, node.record?.ownership], ['committed', 'running', 'arriving']);
  node.fullDisk = false;
  assert.is((await node.incoming.commit(id)).epoch, 5);
  assert.equal([node.journalled, node.record?.ownership, node.record?.epoch], ['running', 'owned', 5]);
  assert.equal(node.steps, ['restored', 'let go with committed in the journal']);
});

test('the decision is on disk before the copy is let go, and saying it again changes nothing', async () => {
  const node = await destination('prepared');
  assert.is((await node.incoming.commit(id)).epoch, 5);
  assert.is((await node.incoming.commit(id)).epoch, 5);
  assert.equal(node.steps, ['restored', 'let go with committed in the journal']);
  assert.equal([node.journalled, node.record?.ownership, node.record?.epoch], ['running', 'owned', 5]);
  assert.is(await refusalOf(node.incoming.abort(id)), 'DELTAHOP_E_NOT_RUNNING');
});

test('what was arranged before the memory came is used once, and taken back if files came after it or nothing', async () => {
  const node = await destination('staging');
  await node.incoming.arrange(id);
  await node.incoming.arrange(id);
  assert.equal(node.arrangements, ['with files']);
  node.onTransfer('instance-files');
  await node.incoming.arrange(id);
  assert.equal(node.arrangements, ['abandoned', 'with files']);
  const { tookMs, restorerMs } = await node.incoming.prepare(id);
  assert.equal(node.arrangements, ['abandoned', 'used']);
  assert.ok(tookMs >= 0 && restorerMs === 1);
  assert.is(await refusalOf(node.incoming.arrange(id)), 'DELTAHOP_E_NOT_RUNNING');

  const given = await destination('staging');
  await given.incoming.arrange(id);
  await given.incoming.abort(id);
  assert.equal([given.arrangements, given.journalled], [['abandoned'], 'aborted']);
});

test('the last of the memory is restored when it has come; nothing of it counts before it is asked for', async () => {
  const node = await destination('staging');
  node.onTransfer('instance-memory');
  await sleep(20);
  assert.equal(node.steps, [], 'a round is no reason');
  await node.incoming.arrange(id);
  node.onTransfer('layer-x');
  await sleep(20);
  assert.equal(node.steps, []);
  node.onTransfer('instance-memory');
  await until(() => node.steps.length > 0);
  assert.equal([node.steps, node.state, node.journalled], [['restored'], 'frozen', 'staging']);
  // Sent once more, since the source has not heard that it came.
  node.onTransfer('instance-memory');
  await node.incoming.prepare(id);
  assert.equal([node.steps, node.state, node.journalled], [['restored'], 'frozen', 'prepared']);
});

test('who asks beforehand is answered when all has come that it names, and what comes before it asks does not count', async () => {
  const node = await destination('staging');
  node.onTransfer('instance-disk');
  let replies = 0;
  const asked = node.incoming.prepareOnArrival(id, ['instance-memory', 'instance-disk']).then(() => replies++);
  node.onTransfer('instance-memory');
  node.onTransfer('instance-memory');
  await sleep(20);
  assert.equal([node.steps, replies, node.journalled], [[], 0, 'staging']);
  node.onTransfer('instance-disk');
  await asked;
  assert.equal([node.steps, node.state, node.journalled], [['restored'], 'frozen', 'prepared']);
  await node.incoming.prepare(id);
  assert.equal(node.steps, ['restored']);
});

test('one that waits for an arrival stands in nobody’s way, and hears of the end', async () => {
  const late = await destination('staging');
  const unheard = late.incoming.prepareOnArrival(id, ['instance-memory']);
  await late.incoming.prepare(id);
  assert.equal([late.steps, late.journalled], [['restored'], 'prepared']);
  late.onTransfer('instance-memory');
  await unheard;
  assert.equal(late.steps, ['restored']);
  for (const end of ['abort', 'dispose'] as const) {
    const node = await destination('staging');
    const waiting = refusalOf(node.incoming.prepareOnArrival(id, ['instance-memory']));
    await sleep(5);
    await node.incoming[end](id);
    assert.is(await waiting, 'DELTAHOP_E_NOT_RUNNING', end);
    assert.equal([node.steps, node.journalled], [[], 'aborted']);
  }
  const broken = await destination('staging');
  broken.failures = 1;
  const first = refusalOf(broken.incoming.prepareOnArrival(id, ['instance-memory']));
  broken.onTransfer('instance-memory');
  assert.is(await first, 'DELTAHOP_E_RESTORE');
  await broken.incoming.prepare(id);
  assert.equal([broken.steps, broken.journalled], [['restored'], 'prepared']);
});

test('a copy that is held early ends with its migration, however that ends', async () => {
  for (const end of ['abort', 'commit', 'dispose', 'restart'] as const) {
    const node = await destination('staging');
    await node.incoming.arrange(id);
    node.onTransfer('instance-memory');
    await until(() => node.state === 'frozen');
    if (end === 'abort') await node.incoming.abort(id);
    if (end === 'commit') assert.is(await refusalOf(node.incoming.commit(id)), 'DELTAHOP_E_NOT_RUNNING');
    if (end === 'dispose') await node.incoming.dispose();
    if (end === 'restart') {
      await node.restart();
      await node.incoming.recoverHere();
    }
    assert.equal([node.state, node.journalled], ['stopped', 'aborted'], end);
  }
});

test('a driver that can arranges a restore after the first round, and it is used however often files come after it', async () => {
  const early = async (): Promise<Destination> => {
    const node = new Destination();
    node.arrangesEarly = true;
    await node.restart();
    await node.incoming.offer(offer);
    node.onTransfer('instance-memory');
    await until(() => node.arrangements.length > 0);
    return node;
  };
  const node = await early();
  node.onTransfer('instance-memory');
  await node.incoming.arrange(id);
  await node.incoming.arrange(id);
  assert.equal([node.arrangements, node.steps], [['with files'], []], 'a round is no reason to restore');
  node.onTransfer('instance-memory');
  await until(() => node.steps.length > 0);
  await node.incoming.prepare(id);
  assert.equal([node.arrangements, node.steps, node.journalled], [['used'], ['restored'], 'prepared']);

  const given = await early();
  await given.incoming.abort(id);
  assert.equal([given.arrangements, given.journalled], [['abandoned'], 'aborted']);
});

test('files that are announced are used as soon as they come, and what comes after them is the last of the memory', async () => {
  const node = new Destination();
  node.arrangesEarly = true;
  await node.restart();
  await node.incoming.offer(offer);
  node.onTransfer('instance-files');
  node.onTransfer('instance-memory');
  await until(() => node.arrangements.length > 0);
  await node.incoming.arrangeOnArrival(id, ['instance-files']);
  await sleep(20);
  assert.equal(node.arrangements, ['open'], 'those of the round do not count');
  node.onTransfer('instance-files');
  await sleep(1);
  node.onTransfer('instance-memory');
  await until(() => node.steps.length > 0);
  assert.equal([node.arrangements, node.state, node.journalled], [['used'], 'frozen', 'staging']);
  await node.incoming.prepare(id);
  assert.is(await refusalOf(node.incoming.arrangeOnArrival(id, ['instance-files'])), 'DELTAHOP_E_NOT_RUNNING');

  const broken = await destination('staging');
  broken.failures = 1;
  await broken.incoming.arrangeOnArrival(id, ['instance-files']);
  broken.onTransfer('instance-files');
  await until(() => broken.arrangements[0] === 'taken back');
  broken.onTransfer('instance-memory');
  await broken.incoming.prepare(id);
  assert.equal([broken.arrangements, broken.steps], [['taken back', 'used'], ['restored']]);
});

test('an early restore that fails is made again when it is asked for', async () => {
  const node = await destination('staging');
  await node.incoming.arrange(id);
  node.failures = 1;
  node.onTransfer('instance-memory');
  await until(() => node.failures <= 0);
  await node.incoming.prepare(id);
  assert.equal([node.steps, node.arrangements, node.journalled], [['restored'], ['used', 'used'], 'prepared']);
});

test('a look at an offer says everything that stands against it and changes nothing; the offer itself is refused', async () => {
  const node = new Destination();
  await node.restart();
  const stone = { ...offer, machine: { cpu: 'stone' }, instance: { memoryBytes: 2 ** 50, filesBytes: 1 } };
  const { findings, missingLayers, returning, machine } = await node.incoming.examine(stone);
  assert.equal(
    findings.filter(({ ok }) => !ok).map(({ name }) => name),
    ['cpu', 'space', 'memory'],
  );
  for (const { ok, remedy } of findings) assert.is(ok, remedy === null, 'what is not ok has a way out');
  assert.equal([missingLayers, returning, machine], [[base, app], false, { cpu: 'cardboard' }]);
  assert.is(await refusalOf(node.incoming.offer(stone)), 'DELTAHOP_E_PREFLIGHT');
  assert.is(await refusalOf(node.incoming.offer({ ...offer, instance: stone.instance })), 'DELTAHOP_E_PREFLIGHT');
  assert.equal([node.journalled, node.record, node.operation, node.taken.size], ['nothing', null, null, 0]);
});

test('an offer that fails half-way gives back what it has taken, and nothing of another', async () => {
  const node = new Destination();
  await node.restart();
  node.stagingFails = true;
  assert.is(await refusalOf(node.incoming.offer(offer)), 'DELTAHOP_E_IO');
  assert.equal([...node.taken], []);
  assert.is(node.journalled, 'aborted');

  node.stagingFails = false;
  node.taken.add(app);
  const second = { ...offer, migration: '11111111-1111-4111-8111-111111111111' };
  assert.is(await refusalOf(node.incoming.offer(second)), 'DELTAHOP_E_BUSY');
  assert.equal([...node.taken], [app]);
});

test('local operations have to wait for an arrival, however it ends, and no longer', async () => {
  for (const verdict of ['commit', 'abort'] as const) {
    const node = await destination('prepared');
    assert.is(node.operation, 'its migration from edge-a');
    // The source is not heard any more: the destination's own question settles it.
    node.verdict = { verdict, nodeName: 'edge-a' };
    await node.incoming.recoverNow();
    assert.is(node.journalled, verdict === 'commit' ? 'running' : 'aborted');
    assert.is(node.operation, null);
  }
  const busy = new Destination();
  await busy.restart();
  busy.operation = 'its start';
  assert.is(await refusalOf(busy.incoming.offer(offer)), 'DELTAHOP_E_BUSY');
  assert.equal([busy.operation, busy.journalled], ['its start', 'nothing']);
});

test('what was not prepared is refused for good, though it is prepared afterwards', async () => {
  const node = await destination('staging');
  assert.is(await refusalOf(node.incoming.commit(id)), 'DELTAHOP_E_NOT_RUNNING');
  assert.is(await refusalOf(node.incoming.prepare(id)), 'DELTAHOP_E_NOT_RUNNING');
  await node.restart();
  assert.is(await refusalOf(node.incoming.commit(id)), 'DELTAHOP_E_NOT_RUNNING');
  assert.equal([node.journalled, node.state], ['aborted', 'stopped']);
});

test('a copy that can not be let go is restored once more; if that fails too it is refused for good', async () => {
  const node = await destination('prepared');
  await node.restart();
  await node.incoming.recoverHere();
  node.failures = 1;
  assert.is(await refusalOf(node.incoming.commit(id)), 'DELTAHOP_E_NOT_RUNNING');
  assert.equal([node.journalled, node.state, node.record?.ownership], ['aborted', 'stopped', 'departed']);
  assert.is(await refusalOf(node.incoming.commit(id)), 'DELTAHOP_E_NOT_RUNNING');
});

for (const verdict of ['commit', 'abort'] as const) {
  test(`a restarted agent asks until it hears ${verdict}, and does not act before`, async () => {
    const node = await destination('prepared');
    await node.restart();
    await node.incoming.recoverHere();
    node.incoming.pursueAll();
    await sleep(50);
    assert.equal([node.state, node.journalled], ['stopped', 'prepared']);
    node.verdict = { verdict: 'undecided', nodeName: 'edge-a' };
    await node.incoming.recoverNow();
    assert.equal([node.state, node.journalled], ['stopped', 'prepared']);
    // Another node has taken the address: what it does not know it may not judge.
    node.verdict = { verdict: 'abort', nodeName: 'edge-z' };
    await node.incoming.recoverNow();
    assert.is(node.journalled, 'prepared');
    node.verdict = { verdict, nodeName: 'edge-a' };
    await until(() => node.journalled === (verdict === 'commit' ? 'running' : 'aborted'));
    assert.is(node.state, verdict === 'commit' ? 'running' : 'stopped');
    assert.is(node.steps.filter((step) => step === 'restored').length, verdict === 'commit' ? 2 : 1);
    await node.incoming.dispose();
  });
}

test('a copy that was let go before the crash is not restored again', async () => {
  for (const runs of [true, false]) {
    const node = await destination('prepared');
    const record = node.journal.destination(id);
    assert.ok(record !== null);
    await node.journal.write({ ...record, state: 'committed' });
    node.released = true;
    node.state = runs ? 'running' : 'stopped';
    await node.restart();
    await node.incoming.recoverHere();
    node.incoming.pursueAll();
    await until(() => node.journalled === 'running');
    assert.equal([node.steps, node.record?.epoch], [['restored'], 5]);
    await node.incoming.dispose();
  }
});

test('a stopped agent ends what only arrives and leaves what is prepared to the next one', async () => {
  const arriving = await destination('staging');
  await arriving.incoming.dispose();
  assert.is(arriving.journalled, 'aborted');
  const prepared = await destination('prepared');
  await prepared.incoming.dispose();
  assert.equal([prepared.journalled, prepared.state], ['prepared', 'frozen']);
});

test('its owner offers again: the earlier try is over; another node is told to wait', async () => {
  const node = await destination('prepared');
  const other = { ...offer, migration: '11111111-1111-4111-8111-111111111111', sourceName: 'edge-c' };
  assert.is(await refusalOf(node.incoming.offer(other)), 'DELTAHOP_E_BUSY');
  await node.incoming.offer({ ...other, sourceName: 'edge-a' });
  assert.equal([node.journalled, node.state], ['aborted', 'stopped']);
});

test('an operator keeps the destination: a later owner, and the source hears of it', async () => {
  const node = await destination('prepared');
  await node.incoming.resolve(id, 'destination');
  assert.equal([node.state, node.record?.ownership, node.record?.epoch], ['running', 'owned', 6]);
  assert.is(node.operation, null);
  await until(() => node.steps.includes('source cedes to 6') && node.journal.destination(id)?.untoldEpoch === null);
  await node.incoming.dispose();
});

test('it yields to a source that an operator chose', async () => {
  const node = await destination('prepared');
  await node.incoming.commit(id);
  const record = node.journal.destination(id);
  assert.ok(record !== null);
  assert.is(await refusalOf(node.incoming.cede(record, 5)), 'DELTAHOP_E_EPOCH');
  await node.incoming.cede(record, 6);
  assert.equal([node.state, node.record?.ownership, node.record?.epoch], ['stopped', 'departed', 6]);
  // Its source may have crashed before it heard so, and asks how the service is.
  assert.is(await refusalOf(node.incoming.health(id)), 'DELTAHOP_E_NOT_RUNNING');
  assert.is(await refusalOf(node.incoming.commit(id)), 'DELTAHOP_E_NOT_RUNNING');
});

test('a service is as well as its probe says; one without a probe is while it runs', async () => {
  const probed = { ...offer, service: { ...offer.service, health: { ...policy } } };
  for (const [offered, detail] of [
    [offer, 'web is running'],
    [probed, 'tcp:1: nobody listens'],
  ] as const) {
    const node = new Destination();
    await node.restart();
    await node.incoming.offer(offered);
    await node.incoming.prepare(id);
    assert.is((await node.incoming.health(id)).healthy, false);
    await node.incoming.commit(id);
    assert.equal(await node.incoming.health(id), { healthy: offered === offer, detail });
  }
});

test('an operator who keeps the destination can keep the source after all, until it runs', async () => {
  const node = await destination('prepared');
  await node.restart();
  await node.incoming.recoverHere();
  node.failures = 99;
  assert.is(await refusalOf(node.incoming.resolve(id, 'destination')), 'DELTAHOP_E_NOT_RUNNING');
  const record = await node.incoming.resolve(id, 'source');
  assert.equal([node.state, record.state, record.untoldEpoch], ['stopped', 'aborted', null]);
  assert.is(node.record?.ownership, 'departed');
  assert.is(await refusalOf(node.incoming.commit(id)), 'DELTAHOP_E_NOT_RUNNING');
  await node.incoming.dispose();

  const running = await destination('prepared');
  running.sourceIsGone = true;
  await running.incoming.resolve(id, 'destination');
  assert.is(await refusalOf(running.incoming.resolve(id, 'source')), 'DELTAHOP_E_UNSUPPORTED');
  assert.equal([running.state, running.journalled], ['running', 'running']);
  await running.incoming.dispose();
});

test('a restore that fails while there is no source to take the service back is tried again', async () => {
  for (const who of ['operator', 'agent'] as const) {
    const node = await destination('prepared');
    await node.restart();
    await node.incoming.recoverHere();
    node.failures = 1;
    if (who === 'operator') {
      assert.is(await refusalOf(node.incoming.resolve(id, 'destination')), 'DELTAHOP_E_NOT_RUNNING');
    } else {
      node.verdict = { verdict: 'commit', nodeName: 'edge-a' };
      node.incoming.pursueAll();
    }
    await until(() => node.journalled === 'running');
    assert.equal([node.state, node.record?.ownership], ['running', 'owned']);
    assert.is(node.warnings.length, who === 'agent' ? 1 : 0, 'an operator hears it from the command');
    await node.incoming.dispose();
  }
});

test('what arrives of a source that is gone does not keep others off for ever', async () => {
  const node = await destination('staging');
  await node.incoming.recoverNow();
  assert.equal([node.journalled, node.incoming.isLive(id)], ['staging', true]);
  node.sourceMaySend = false;
  assert.is(node.incoming.isLive(id), false);
  await node.incoming.recoverNow();
  assert.equal([node.journalled, node.operation, node.taken.size], ['aborted', null, 0]);
  await node.incoming.dispose();
});

test('a service whose first try has come to nothing is not one that returns', async () => {
  const node = await destination('staging');
  await node.incoming.abort(id);
  const again = { ...offer, migration: '11111111-1111-4111-8111-111111111111' };
  assert.is((await node.incoming.offer(again)).returning, false);
  await node.incoming.dispose();
});

test('the newest arrival of a service is not forgotten, however many others come after it', async () => {
  const node = await destination('prepared');
  await node.incoming.commit(id);
  const record = node.journal.destination(id);
  assert.ok(record !== null);
  for (let count = 0; count < 120; count++) {
    const migration = `22222222-2222-4222-8222-${String(count).padStart(12, '0')}`;
    await node.journal.write({ ...record, migration, service: 'other', startedAtMs: record.startedAtMs + 1 + count });
  }
  assert.is(node.journal.list().length, 101);
  assert.is((await node.incoming.health(id)).healthy, true);
  await node.incoming.dispose();
});

test.run();
