/** The agent: puts a node's parts together and keeps them for as long as it runs. The only module that knows every driver. */
import { mkdir, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { loadEngine } from '../engine/engine.js';
import { DeltahopError } from '../errors.js';
import { fileError } from '../layers/durable-file.js';
import { compressedShare } from '../layers/sample.js';
import { SpaceReserve } from '../layers/space-reserve.js';
import { LayerStore } from '../layers/store.js';
import { type MigrationContext, Outgoing } from '../migrate/handoff.js';
import { History } from '../migrate/history.js';
import { IncomingMigrations } from '../migrate/incoming.js';
import { Journal } from '../migrate/journal.js';
import { TransferClient } from '../transfer/transfer-client.js';
import { TransferServer } from '../transfer/transfer-server.js';
import { WorkerPool } from '../transfer/worker-pool.js';
import type { WorkloadDriver } from '../workload/driver.js';
import { createLibvirtDriver } from '../workload/libvirt/libvirt-driver.js';
import { createLxcDriver } from '../workload/lxc/lxc-driver.js';
import { flattenImage } from '../workload/qemu/image.js';
import { createQemuDriver } from '../workload/qemu/qemu-driver.js';
import { type ApiContext, addLocalRoutes, addPeerRoutes, addRecoveryRoutes } from './api.js';
import { localSocketPath, PeerConnection } from './client.js';
import { HandOffs } from './hand-offs.js';
import { Jobs } from './jobs.js';
import { type Listener, listenLocally, listenToPeers } from './listener.js';
import { errorBody } from './messages.js';
import { type Address, addressToward, formatAddress, parseAddress, permittedAddress } from './peers.js';
import { Router } from './router.js';
import { ServiceStore } from './services.js';
import { StalledServices } from './stalled-services.js';
import { StateLock } from './state-lock.js';
import { programVersion } from './version.js';

/** What `deltahop agent` is given. */
export interface AgentOptions {
  /** Directory of everything that this node keeps; made if missing. */
  statePath: string;
  /** Port 0 takes any free one. */
  listen: Address;
  /** How this node is called in messages. */
  name: string;
  /** Plain TCP beyond this machine. */
  insecure: boolean;
}

/** A fourth driver is one folder and one line here. */
export function createDrivers(): readonly WorkloadDriver[] {
  return [createLxcDriver(), createQemuDriver(), createLibvirtDriver()];
}

/** A running agent. */
export class Agent {
  /** Where peers reach it. */
  readonly address: Address;
  readonly socketPath: string;
  readonly #closers: (() => Promise<void>)[];

  private constructor(address: Address, socketPath: string, closers: (() => Promise<void>)[]) {
    this.address = address;
    this.socketPath = socketPath;
    this.#closers = closers;
  }

  /**
   * Starts an agent: takes the state directory for itself, clears what an earlier agent left half done, then listens.
   * @throws DeltahopError DELTAHOP_E_AGENT_RUNNING, DELTAHOP_E_INSECURE_REFUSED, DELTAHOP_E_INVALID_ARGUMENT (address,
   *   path), DELTAHOP_E_NATIVE_UNAVAILABLE, DELTAHOP_E_CORRUPT; nothing is left running then.
   */
  static async start(options: AgentOptions, log: Logger): Promise<Agent> {
    const listen = await permittedAddress(options.listen, options.insecure);
    const version = await programVersion();
    const engine = loadEngine();
    const statePath = await stateDirectory(options.statePath);
    const socketPath = localSocketPath(statePath);

    const closers: (() => Promise<void>)[] = [];
    try {
      const lock = await StateLock.take(statePath, socketPath);
      closers.push(() => lock.release());

      const reserve = await SpaceReserve.open(join(statePath, 'reserve'));
      const layers = await LayerStore.open(join(statePath, 'layers'), engine, flattenImage);
      const services = await ServiceStore.open(join(statePath, 'services'), layers, reserve);
      const drivers = new Map(createDrivers().map((driver) => [driver.name, driver]));
      const driver = (name: string): WorkloadDriver => {
        const found = drivers.get(name);
        if (found !== undefined) return found;
        const known = [...drivers.keys()].join(', ');
        throw new DeltahopError(
          'DELTAHOP_E_UNSUPPORTED',
          `there is no driver ${name} on ${options.name}; it has ${known}`,
        );
      };
      const workload = services.workload.bind(services);
      const pool = new WorkerPool();
      closers.push(() => pool.close());
      const transfers = new TransferServer({ pool });
      closers.push(() => transfers.close());
      const permitted = (address: string): Promise<Address> =>
        permittedAddress(parseAddress(address), options.insecure);
      const connectPeer = (to: string): PeerConnection => new PeerConnection(to, permitted(to));
      const journal = await Journal.open(join(statePath, 'journal'), reserve);
      const node = { nodeName: options.name, statePath, journal, ownership: services, layers, driver, workload };
      const onWarning = (message: string): void => log.warn(message);
      const incoming = new IncomingMigrations(
        {
          ...node,
          transfers,
          connectPeer,
          begin: services.begin.bind(services),
          cameBack: (migration) => outgoing.cameBack(migration),
        },
        onWarning,
      );
      closers.push(() => incoming.dispose());
      const migration: MigrationContext = {
        ...node,
        history: await History.open(join(statePath, 'history.json')),
        compressedShare: (sample) => compressedShare(engine, sample),
        connectPeer,
        ownAddress: async (to) => formatAddress(await addressToward(await permitted(to), address)),
        connectTransfers: async (to, ticket, signal) =>
          await TransferClient.connect({ pool, ...(await permitted(to)), ticket, signal }),
      };
      const outgoing = new Outgoing(migration, onWarning);
      closers.push(() => outgoing.close());
      // What the journal says about a service comes before what its driver finds, and both before any peer may ask.
      await outgoing.recoverHere();
      await incoming.recoverHere();
      await recoverServices(services, journal, driver, log);
      const stalled = new StalledServices(services, journal, driver, (service) =>
        log.warn({ service }, 'a full disk had stopped it; there is room again, and it goes on'),
      );
      closers.push(() => stalled.close());
      const jobs = await Jobs.open(join(statePath, 'jobs'), (job, result) => log.info({ job, result }, 'job ended'));

      let address = listen;
      const context: ApiContext = {
        layers,
        services,
        jobs,
        driver,
        incoming,
        migration,
        outgoing,
        handOffs: new HandOffs(journal, services, outgoing, incoming),
        node: () => ({
          name: options.name,
          version,
          pid: process.pid,
          listen: formatAddress(address),
          insecure: options.insecure,
          drivers: [...drivers.keys()],
        }),
      };
      const onDefect = (error: unknown, what: string): void => log.error({ err: error, what }, 'defect');
      const localRouter = new Router(onDefect);
      addLocalRoutes(localRouter, context);
      addRecoveryRoutes(localRouter, context);
      const peerRouter = new Router(onDefect);
      addPeerRoutes(peerRouter, context);

      const peers: Listener = await listenToPeers(listen, peerRouter, (socket, head) => transfers.accept(socket, head));
      closers.push(() => peers.close());
      address = peers.address as Address;
      outgoing.pursueAll();
      incoming.pursueAll();
      const local = await listenLocally(socketPath, localRouter);
      closers.push(() => local.close());
      // Ended first, while whoever follows them can still be told how.
      closers.push(() => jobs.cancelAll());

      log.info({ node: options.name, version, statePath, listen: formatAddress(address) }, 'agent started');
      if (options.insecure) log.warn('connections are neither encrypted nor authenticated (--insecure)');
      else log.info('peers on this machine only: connections are not encrypted yet; --insecure opens it to others');
      return new Agent(address, socketPath, closers);
    } catch (error) {
      await closeAll(closers).catch((failure: unknown) => log.error({ err: failure }, 'not all of it could be ended'));
      throw error;
    }
  }

  /** Stops: running migrations are cancelled, services run on. */
  async close(): Promise<void> {
    await closeAll(this.#closers);
  }
}

async function stateDirectory(path: string): Promise<string> {
  try {
    await mkdir(path, { recursive: true, mode: 0o700 });
    return await realpath(path);
  } catch (error) {
    throw fileError(error, `cannot use ${path} as a state directory`);
  }
}

/** The last one begun is the first one ended. One that fails keeps none of the others open; the first failure is thrown. */
async function closeAll(closers: (() => Promise<void>)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const close of closers.splice(0).reverse()) {
    try {
      await close();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures[0];
}

/** What an agent that was killed left half done is undone by its driver. One service's failure does not stop the others. */
async function recoverServices(
  services: ServiceStore,
  journal: Journal,
  driver: (name: string) => WorkloadDriver,
  log: Logger,
): Promise<void> {
  for (const record of services.list()) {
    // Those of open hand-offs were put in order by what the journal says.
    if (journal.undecided(record.name).length > 0) continue;
    try {
      await driver(record.driver).recover(services.workload(record));
    } catch (error) {
      log.error({ service: record.name, ...errorBody(error) }, 'this service could not be put in order');
    }
  }
}
