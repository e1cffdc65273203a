/** What the agent answers to: the local API of its user, and the API of its peers. Version 1. */
import * as z from 'zod';
import { DeltahopError } from '../errors.js';
import type { LayerImport, LayerStore, StoredLayer } from '../layers/store.js';
import type { MigrationContext, Outgoing } from '../migrate/handoff.js';
import type { IncomingMigrations } from '../migrate/incoming.js';
import { Migration } from '../migrate/migration.js';
import { arrivalSchema, cedeSchema, offerSchema, pingSchema } from '../migrate/offer.js';
import type { ServiceRecord } from '../migrate/ownership.js';
import { dryRun } from '../migrate/survey.js';
import type { WorkloadDriver } from '../workload/driver.js';
import { type HandOffs, refuseUnsettled } from './hand-offs.js';
import type { Job, Jobs, JobWork } from './jobs.js';
import {
  dryRunRequestSchema,
  errorBody,
  type LayerView,
  layerImportSchema,
  type MigrateOptions,
  migrateSchema,
  type NodeReply,
  resolveSchema,
  type ServiceAdopt,
  type ServiceView,
  serviceAddSchema,
  serviceAdoptSchema,
} from './messages.js';
import { parseAddress } from './peers.js';
import type { Router } from './router.js';
import type { ServiceStore } from './services.js';

/** What the routes work upon. */
export interface ApiContext {
  node(): NodeReply;
  layers: LayerStore;
  services: ServiceStore;
  jobs: Jobs;
  driver(name: string): WorkloadDriver;
  migration: MigrationContext;
  incoming: IncomingMigrations;
  outgoing: Outgoing;
  handOffs: HandOffs;
}

/** The routes of the unix socket. */
export function addLocalRoutes(router: Router, context: ApiContext): void {
  const { layers, services, jobs } = context;
  router.on('GET', '/v1/node', null, async () => context.node());
  router.on('GET', '/v1/jobs', null, async () => ({ jobs: jobs.list() }));
  router.on('DELETE', '/v1/jobs/:id', null, async ({ param }) => {
    jobs.cancel(param('id'));
    return undefined;
  });
  router.on('GET', '/v1/jobs/:id', null, async ({ param }) => jobs.get(param('id')));

  router.on('GET', '/v1/layers', null, async () => ({ layers: layers.list().map(layerView) }));
  router.on('POST', '/v1/layers', layerImportSchema, async ({ body }) =>
    jobs.start(`import of ${body.name}`, async (signal, emit) => ({
      type: 'layer',
      ...layerView(await importLayer(layers, body, signal, emit)),
    })),
  );
  router.on('DELETE', '/v1/layers/:reference', null, async ({ param }) => {
    const { layer, removed } = await layers.remove(param('reference'));
    return { digest: layer.digest, removed };
  });

  router.on('GET', '/v1/services', null, async () => ({
    services: await Promise.all(services.list().map((record) => serviceView(context, record))),
  }));
  router.on('POST', '/v1/services', serviceAddSchema, async ({ body }) =>
    services.exclusively(body.name, 'its addition', async () => {
      const record = await addService(context, body);
      return await serviceView(context, record);
    }),
  );
  router.on('POST', '/v1/services/adopt', serviceAdoptSchema, async ({ body }) => adoptService(context, body));
  router.on('GET', '/v1/services/:name', null, async ({ param }) => serviceView(context, services.get(param('name'))));
  router.on('DELETE', '/v1/services/:name', null, async ({ param }) => {
    const { name } = services.get(param('name'));
    await services.exclusively(name, 'its removal', () => removeService(context, name));
    return undefined;
  });
  for (const change of ['start', 'stop'] as const) {
    router.on('POST', `/v1/services/:name/${change}`, null, async ({ param }) => {
      const { name } = services.get(param('name'));
      await services.exclusively(name, `its ${change}`, async () => {
        const record = services.getOwned(name);
        // A copy that was given up must not run, whatever the record of ownership has not heard yet.
        refuseUnsettled(context.migration.journal, name);
        await context.driver(record.driver)[change](services.workload(record));
      });
      return await serviceView(context, services.get(name));
    });
  }
  router.on('POST', '/v1/services/:name/migrate', migrateSchema, async ({ param, body }) =>
    startMigration(context, param('name'), body),
  );
  router.on('POST', '/v1/services/:name/dry-run', dryRunRequestSchema, async ({ param, body }) => {
    parseAddress(body.to);
    return await dryRun(context.migration, param('name'), body.to, body);
  });
}

/** The routes by which a node is told to settle what a crash or a cut has left open. */
export function addRecoveryRoutes(router: Router, { handOffs }: ApiContext): void {
  router.on('POST', '/v1/recover', null, async () => ({ handOffs: await handOffs.recover() }));
  router.on('POST', '/v1/services/:name/resolve', resolveSchema, async ({ param, body }) =>
    handOffs.resolve(param('name'), body.keep),
  );
}

/** The routes that peers may use: those of a migration to this node, and who it is. */
export function addPeerRoutes(router: Router, context: ApiContext): void {
  const { incoming, outgoing, handOffs } = context;
  router.on('GET', '/v1/node', null, async () => {
    const { name, version, drivers } = context.node();
    return { name, version, drivers };
  });
  router.on('POST', '/v1/ping', pingSchema, async () => undefined);
  router.on('POST', '/v1/migrations', offerSchema, ({ body }) => incoming.offer(body));
  router.on('POST', '/v1/migrations/examine', offerSchema, ({ body }) => incoming.examine(body));
  const id = (param: (name: string) => string): string => {
    const checked = z.uuid().safeParse(param('id'));
    if (!checked.success) throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'that is no id of a migration');
    return checked.data;
  };
  router.on('POST', '/v1/migrations/:id/layers/:digest/seal', null, async ({ param }) => {
    await incoming.sealLayer(id(param), param('digest'));
    return undefined;
  });
  router.on('POST', '/v1/migrations/:id/arrange', null, async ({ param }) => {
    await incoming.arrange(id(param));
    return undefined;
  });
  router.on('POST', '/v1/migrations/:id/arrange-on-arrival', arrivalSchema, async ({ param, body }) => {
    await incoming.arrangeOnArrival(id(param), body.slots);
    return undefined;
  });
  router.on('POST', '/v1/migrations/:id/prepare', null, async ({ param }) => incoming.prepare(id(param)));
  router.on('POST', '/v1/migrations/:id/prepare-on-arrival', arrivalSchema, async ({ param, body }) =>
    incoming.prepareOnArrival(id(param), body.slots),
  );
  router.on('POST', '/v1/migrations/:id/commit', null, async ({ param }) => incoming.commit(id(param)));
  router.on('POST', '/v1/migrations/:id/abort', null, async ({ param }) => {
    await incoming.abort(id(param));
    return undefined;
  });
  router.on('GET', '/v1/migrations/:id/verdict', null, async ({ param }) => outgoing.verdict(id(param)));
  router.on('POST', '/v1/migrations/:id/cede', cedeSchema, async ({ param, body }) => {
    await handOffs.cede(id(param), body.epoch);
    return undefined;
  });
  router.on('GET', '/v1/migrations/:id/health', null, async ({ param }) => incoming.health(id(param)));
}

async function importLayer(
  layers: LayerStore,
  what: LayerImport,
  signal: AbortSignal,
  emit: Parameters<JobWork>[1],
): Promise<StoredLayer> {
  const { layer, replaced, notes } = await layers.import(what, {
    signal,
    onProgress: ({ doneBytes, totalBytes, doneFiles, totalFiles }) =>
      emit({ type: 'progress', what: what.name, doneBytes, totalBytes, doneFiles, totalFiles }),
  });
  for (const note of notes) emit({ type: 'warning', message: note });
  if (replaced !== null) {
    emit({ type: 'warning', message: `${what.name} was ${replaced} before; that layer stays, by its digest` });
  }
  return layer;
}

/** Makes a service of what somebody else made: what its base does not have becomes its app layer, its instance is empty. */
function adoptService(context: ApiContext, { reference, ...service }: ServiceAdopt): Job {
  const { name, driver, base } = service;
  const end = context.services.begin(name, 'its adoption');
  return context.jobs.start(`adoption of ${reference} as ${name}`, async (signal, emit) => {
    try {
      await refuseKnown(context.services, name);
      const { path, settings, command, notes } = await context.driver(driver).foreign(reference, service);
      for (const note of notes) emit({ type: 'warning', message: note });
      context.driver(driver).checkSettings(name, settings, command);
      const layer = await importLayer(context.layers, { kind: 'app', name, parent: base, path }, signal, emit);
      const record = await addService(context, {
        ...service,
        app: layer.digest,
        settings: { ...settings },
        command: [...command],
      });
      return { type: 'service', ...(await serviceView(context, record)) };
    } finally {
      end();
    }
  });
}

async function refuseKnown(services: ServiceStore, name: string): Promise<void> {
  const existing = await services.read(name);
  if (existing === null) return;
  const where = existing.movedTo === null ? '' : `; it moved to ${existing.movedTo}`;
  throw new DeltahopError('DELTAHOP_E_EXISTS', `there is a service ${name} on this node already${where}`);
}

async function addService(
  { services, layers, driver }: ApiContext,
  { name, driver: driverName, base, app, settings, command, health }: z.infer<typeof serviceAddSchema>,
): Promise<ServiceRecord> {
  await refuseKnown(services, name);
  const chosen = driver(driverName);
  const complete = chosen.checkSettings(name, settings, command);
  const baseLayer = layerOfKind(layers, base, 'base');
  const appLayer = layerOfKind(layers, app, 'app');
  for (const { form, name: layerName } of [baseLayer, appLayer]) {
    if (form !== chosen.layerForm) {
      throw new DeltahopError(
        'DELTAHOP_E_INVALID_ARGUMENT',
        `layer ${layerName} is a ${form}, and services of ${driverName} need a ${chosen.layerForm}`,
      );
    }
  }
  if (appLayer.parent !== null && appLayer.parent !== baseLayer.digest) {
    throw new DeltahopError(
      'DELTAHOP_E_INVALID_ARGUMENT',
      `app layer ${app} was built upon ${layers.find(appLayer.parent)?.name ?? appLayer.parent}, not upon ${base}`,
    );
  }
  const record: ServiceRecord = {
    name,
    driver: driverName,
    base: baseLayer.digest,
    app: appLayer.digest,
    settings: complete,
    command,
    health,
    epoch: 1,
    ownership: 'owned',
    movedTo: null,
  };
  await services.compareAndSet(name, null, record);
  try {
    await chosen.create(services.workload(record));
  } catch (error) {
    await services.remove(name);
    throw error;
  }
  return record;
}

async function removeService({ services, driver, migration }: ApiContext, name: string): Promise<void> {
  const record = services.get(name);
  refuseUnsettled(migration.journal, name);
  const chosen = driver(record.driver);
  const workload = services.workload(record);
  if (record.ownership === 'owned' && (await chosen.inspect(workload)).state !== 'stopped') {
    throw new DeltahopError('DELTAHOP_E_IN_USE', `service ${name} cannot be removed while it runs`);
  }
  await chosen.remove(workload);
  await services.remove(name);
}

function startMigration({ services, jobs, migration, outgoing }: ApiContext, name: string, order: MigrateOptions): Job {
  const { to } = order;
  parseAddress(to);
  const end = services.begin(name, `its migration to ${to}`);
  return jobs.start(`migration of ${name} to ${to}`, async (signal, emit) => {
    try {
      return { ...(await new Migration(migration, outgoing, name, order, emit).run(signal)) };
    } finally {
      end();
    }
  });
}

function layerOfKind(layers: LayerStore, reference: string, kind: 'base' | 'app'): StoredLayer {
  const layer = layers.get(reference);
  if (layer.kind === kind) return layer;
  throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `layer ${reference} is of kind ${layer.kind}, not ${kind}`);
}

function layerView({ name, names, digest, kind, form, parent, files, bytes }: StoredLayer): LayerView {
  return { name, names: [...names], digest, kind, form, parent, files, bytes };
}

async function serviceView({ services, layers, driver }: ApiContext, record: ServiceRecord): Promise<ServiceView> {
  const shown = (digest: string): { name: string; digest: string } => ({
    name: layers.find(digest)?.name ?? digest.slice('blake3:'.length, 'blake3:'.length + 12),
    digest,
  });
  const view = {
    note: null,
    name: record.name,
    driver: record.driver,
    base: shown(record.base),
    app: shown(record.app),
    settings: { ...record.settings },
    command: [...record.command],
    health: record.health,
    epoch: record.epoch,
    ownership: record.ownership,
    movedTo: record.movedTo,
    operation: services.operation(record.name),
  };
  try {
    // One service whose driver fails must not hide the others from the list.
    const { state, pid, note = null } = await driver(record.driver).inspect(services.workload(record));
    return { ...view, state, pid, note, problem: null };
  } catch (error) {
    return { ...view, state: 'unknown', pid: null, problem: errorBody(error).message };
  }
}
