/** What is looked at before a migration, by the real one and by `--dry-run` alike: who would bring what, and what it costs. */
import { randomUUID } from 'node:crypto';
import { sampleOfTree } from '../layers/sample.js';
import type { InstanceSize, WorkloadDriver } from '../workload/driver.js';
import { type Forecast, type ForecastInputs, forecast } from './forecast.js';
import type { MigrationContext, PeerLink } from './handoff.js';
import type { Journal } from './journal.js';
import type { Examination, Finding, Offer, OfferedLayer } from './offer.js';
import { ownedService, type ServiceRecord } from './ownership.js';
import { type Departure, examineSource } from './preflight.js';

/** What the source knows by itself. */
export interface Survey {
  offer: Offer;
  size: InstanceSize;
}

/** Describes a service as it would be offered to the node at `address`. */
export async function survey(
  context: MigrationContext,
  migration: string,
  record: ServiceRecord,
  address: string,
): Promise<Survey> {
  const driver = context.driver(record.driver);
  const layers: OfferedLayer[] = [];
  for (const digest of [record.base, record.app]) {
    const { kind, form, name, parent, bytes } = await context.layers.get(digest);
    layers.push({ kind, form, name, digest, parent, bytes });
  }
  const [machine, size, sourceAddress] = await Promise.all([
    driver.machine(),
    driver.measure(context.workload(record)),
    context.ownAddress(address),
  ]);
  const { name, settings, command, health, epoch } = record;
  const { memoryBytes, filesBytes } = size;
  const offer: Offer = {
    migration,
    sourceName: context.nodeName,
    sourceAddress,
    service: { name, driver: record.driver, settings: { ...settings }, command: [...command], health, epoch },
    layers,
    machine,
    instance: { memoryBytes, filesBytes },
  };
  return { offer, size };
}

/** What the forecast is made of, once the destination has said what it lacks. */
export async function forecastInputs(
  context: MigrationContext,
  { offer, size }: Survey,
  { destinationName, missingLayers, returning }: Pick<Examination, 'destinationName' | 'missingLayers' | 'returning'>,
  link: ForecastInputs['link'],
): Promise<ForecastInputs> {
  const layers = { bytes: 0, files: 0, share: 1 };
  let compressedBytes = 0;
  for (const digest of missingLayers) {
    const { bytes, files, contentPath } = await context.layers.get(digest);
    const share = await context.compressedShare(await sampleOfTree(contentPath));
    layers.bytes += bytes;
    layers.files += files;
    compressedBytes += bytes * share;
  }
  if (layers.bytes > 0) layers.share = compressedBytes / layers.bytes;
  const { memoryBytes, filesBytes, memorySample } = size;
  return {
    service: offer.service.name,
    to: destinationName,
    layers,
    instance: { memoryBytes, filesBytes, share: await context.compressedShare(memorySample) },
    returning,
    hasDisks: offer.layers.some(({ form }) => form === 'disk'),
    link,
    past: context.history.hops,
  };
}

/** What `--dry-run` says. Nothing was moved, taken or promised. */
export interface DryRun {
  type: 'dry-run';
  service: string;
  from: string;
  to: string;
  /** Whether nothing that was looked at stands against it. */
  possible: boolean;
  findings: (Finding & { node: string })[];
  /** What would not keep it from going there, but from coming back. */
  wayBack: Finding[];
  missingLayers: { name: string; digest: string; bytes: number }[];
  instance: { memoryBytes: number; filesBytes: number };
  link: { roundTripMs: number; bytesPerMs: number };
  forecast: Forecast;
}

/** Whether an earlier migration of the service stands in the way. */
function settledFindings(journal: Journal, service: string): Finding[] {
  return journal.undecided(service).map(({ peer }) => ({
    name: 'earlier hand-off',
    ok: false,
    detail: `that with ${peer} is not settled`,
    remedy: '`deltahop recover` tries to settle it',
  }));
}

/**
 * Looks at everything that can be known of a migration before it begins.
 * @throws DeltahopError DELTAHOP_E_NOT_FOUND, DELTAHOP_E_OWNED_ELSEWHERE, DELTAHOP_E_LINK, or what the destination says
 *   to a service that it owns itself.
 */
export async function dryRun(
  context: MigrationContext,
  service: string,
  address: string,
  departure: Departure,
): Promise<DryRun> {
  const record = await ownedService(context.ownership, service, context.nodeName);
  const driver = context.driver(record.driver);
  const workload = context.workload(record);
  const peer = context.connectPeer(address);
  try {
    const [own, surveyed] = await Promise.all([
      examineSource(driver, workload, context.nodeName, departure),
      survey(context, randomUUID(), record, address),
    ]);
    const examination = await peer.examine(surveyed.offer);
    const link = await measureLink(peer);
    await context.history.setRate(address, link.bytesPerMs);
    const inputs = await forecastInputs(context, surveyed, examination, link);
    const to = examination.destinationName;
    const findings = [
      ...settledFindings(context.journal, service).map((finding) => ({ ...finding, node: context.nodeName })),
      ...own.map((finding) => ({ ...finding, node: context.nodeName })),
      ...examination.findings.map((finding) => ({ ...finding, node: to })),
    ];
    return {
      type: 'dry-run',
      service,
      from: context.nodeName,
      to,
      possible: findings.every(({ ok }) => ok),
      findings,
      wayBack: await wayBack(driver, workload, examination),
      missingLayers: surveyed.offer.layers
        .filter(({ digest }) => examination.missingLayers.includes(digest))
        .map(({ name, digest, bytes }) => ({ name, digest, bytes })),
      instance: surveyed.offer.instance,
      link,
      forecast: forecast(inputs),
    };
  } finally {
    peer.close();
  }
}

/** Facts of the two machines alone: what else this node lacks then is a matter of then. */
async function wayBack(
  driver: WorkloadDriver,
  workload: Parameters<WorkloadDriver['admits']>[1],
  { machine }: Examination,
): Promise<Finding[]> {
  const findings = await driver.admits(machine, workload);
  // The service itself has its address here.
  return findings.filter(({ ok, name }) => !ok && name !== 'address');
}

/** Asks a few times: the quickest answer is the link's, the others are the other node's business. */
export async function roundTripMs(peer: PeerLink): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let count = 0; count < 4; count++) {
    const startedAt = performance.now();
    await peer.ping(0);
    best = Math.min(best, performance.now() - startedAt);
  }
  return Math.round(best * 10) / 10;
}

/** Bytes of the two pings whose difference is the rate: the shorter one has taken the connection through its slow start. */
const shortPingBytes = 128 * 1024;
const longPingBytes = 768 * 1024;

async function measureLink(peer: PeerLink): Promise<{ roundTripMs: number; bytesPerMs: number }> {
  const roundTrip = await roundTripMs(peer);
  const took = async (bytes: number): Promise<number> => {
    const startedAt = performance.now();
    await peer.ping(bytes);
    return performance.now() - startedAt;
  };
  await took(shortPingBytes);
  const shortMs = await took(shortPingBytes);
  const longMs = await took(longPingBytes);
  const bytesPerMs = (longPingBytes - shortPingBytes) / Math.max(0.5, longMs - shortMs);
  return { roundTripMs: roundTrip, bytesPerMs: Math.round(bytesPerMs) };
}
