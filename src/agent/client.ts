/** The API's client: the command line uses it over the unix socket, and agents toward their peers over TCP. */
import { Agent, type ClientRequest, type IncomingMessage, request } from 'node:http';
import type { Socket } from 'node:net';
import { join, resolve } from 'node:path';
import * as z from 'zod';
import { DeltahopError } from '../errors.js';
import { systemCode } from '../layers/durable-file.js';
import type { PeerLink } from '../migrate/handoff.js';
import {
  type CommitReply,
  commitReplySchema,
  type Examination,
  examinationSchema,
  type HealthReply,
  healthReplySchema,
  type Offer,
  type OfferReply,
  offerReplySchema,
  type PrepareReply,
  prepareReplySchema,
  type VerdictReply,
  verdictReplySchema,
} from '../migrate/offer.js';
import type { ByteCounters } from '../migrate/phases.js';
import {
  type DryRunView,
  dryRunSchema,
  errorBodySchema,
  errorFromBody,
  firstIssue,
  type HandOffView,
  handOffViewSchema,
  type JobView,
  jobEventSchema,
  jobViewSchema,
  type LayerRemoval,
  type LayerView,
  layerRemovalSchema,
  layerViewSchema,
  type MigrateOptions,
  type NodeReply,
  nodeReplySchema,
  type ServiceAdd,
  type ServiceAdopt,
  type ServiceView,
  type StreamedEvent,
  serviceViewSchema,
} from './messages.js';

const replyLimitBytes = 4 * 1024 * 1024;
const eventLimitBytes = 1024 * 1024;

/** Path of the socket by which the command line finds the agent of a state directory. */
export function localSocketPath(statePath: string): string {
  return join(resolve(statePath), 'agent.sock');
}

/** Where an agent is to be found. */
export type Target = { socketPath: string } | { host: string; port: number };

interface Ask {
  method: 'GET' | 'POST' | 'DELETE';
  path: readonly string[];
  body?: object;
  /** null: as long as it takes (a service may start for minutes; the connection ends if the agent does). */
  limitMs: number | null;
}

/** One agent's HTTP connection, kept open between requests. */
class Connection {
  readonly #target: Target;
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 4 });
  readonly #sockets = new Set<Socket>();
  readonly #unreachable: (reason: string, cause: unknown) => DeltahopError;
  readonly #silenceMs: number | null;

  /** @param silenceMs A request fails if its agent says nothing for so long, not even that it works on it; null: never. */
  constructor(
    target: Target,
    unreachable: (reason: string, cause: unknown) => DeltahopError,
    silenceMs: number | null,
  ) {
    this.#target = target;
    this.#unreachable = unreachable;
    this.#silenceMs = silenceMs;
  }

  /** What crossed the sockets. */
  get counters(): ByteCounters {
    let bytesSent = 0;
    let bytesReceived = 0;
    for (const socket of this.#sockets) {
      bytesSent += socket.bytesWritten;
      bytesReceived += socket.bytesRead;
    }
    return { bytesSent, bytesReceived };
  }

  close(): void {
    this.#agent.destroy();
  }

  async json<T>(ask: Ask, schema: z.ZodType<T>): Promise<T> {
    const response = await this.open(ask);
    const text = await this.#text(response);
    return parse(text === '' ? 'null' : text, schema);
  }

  async *events(ask: Ask): AsyncGenerator<StreamedEvent> {
    const response = await this.open(ask);
    let rest = '';
    response.setEncoding('utf8');
    try {
      for await (const chunk of response as AsyncIterable<string>) {
        rest += chunk;
        const lines = rest.split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) yield parse(line, jobEventSchema);
        if (rest.length > eventLimitBytes) throw new DeltahopError('DELTAHOP_E_LIMIT', 'an event is too long');
      }
    } catch (error) {
      throw error instanceof DeltahopError ? error : this.#unreachable('the connection broke', error);
    } finally {
      response.destroy();
    }
  }

  /** Sends a request and waits for the reply's head; a reply that is an error rejects with it. */
  async open(ask: Ask): Promise<IncomingMessage> {
    let response: IncomingMessage;
    try {
      response = await this.#exchange(ask);
    } catch (error) {
      if (error instanceof DeltahopError) throw error;
      const reason = systemCode(error) ?? (error instanceof Error ? error.message : String(error));
      throw this.#unreachable(reason, error);
    }
    if (response.statusCode !== undefined && response.statusCode < 300) return response;
    const text = await this.#text(response);
    throw errorFromBody(parse(text, errorBodySchema));
  }

  async #exchange(ask: Ask): Promise<IncomingMessage> {
    try {
      return await this.#exchangeOnce(ask);
    } catch (error) {
      // The other side closed a kept connection at the moment when it was used again: it has not seen the request.
      if (error instanceof StaleConnection) return await this.#exchangeOnce(ask);
      throw error;
    }
  }

  async #exchangeOnce({ method, path, body, limitMs }: Ask): Promise<IncomingMessage> {
    const payload = body === undefined ? null : Buffer.from(JSON.stringify(body));
    return await new Promise<IncomingMessage>((resolve, reject) => {
      const sent: ClientRequest = request({
        ...this.#target,
        method,
        path: `/v1/${path.map(encodeURIComponent).join('/')}`,
        agent: this.#agent,
        headers:
          payload === null ? {} : { 'content-type': 'application/json', 'content-length': String(payload.length) },
      });
      const timer =
        limitMs === null ? null : setTimeout(() => sent.destroy(new Error(`no answer in ${limitMs} ms`)), limitMs);
      const silenceMs = this.#silenceMs;
      const silence =
        silenceMs === null
          ? null
          : setTimeout(() => sent.destroy(new Error(`it has said nothing for ${silenceMs} ms`)), silenceMs);
      const stopWaiting = (): void => {
        if (timer !== null) clearTimeout(timer);
        if (silence !== null) clearTimeout(silence);
      };
      sent.once('socket', (socket) => {
        this.#sockets.add(socket);
        socket.setNoDelay(true);
        socket.setKeepAlive(true, 2_000);
      });
      sent.on('information', () => silence?.refresh());
      sent.once('response', (response) => {
        stopWaiting();
        resolve(response);
      });
      sent.on('error', (error) => {
        stopWaiting();
        reject(sent.reusedSocket && systemCode(error) === 'ECONNRESET' ? new StaleConnection() : error);
      });
      sent.end(payload ?? undefined);
    });
  }

  async #text(response: IncomingMessage): Promise<string> {
    const chunks: Buffer[] = [];
    let bytes = 0;
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        bytes += chunk.length;
        if (bytes > replyLimitBytes) throw new DeltahopError('DELTAHOP_E_LIMIT', 'the reply is too long');
        chunks.push(chunk);
      }
    } catch (error) {
      throw error instanceof DeltahopError ? error : this.#unreachable('the connection broke', error);
    }
    return Buffer.concat(chunks).toString('utf8');
  }
}

class StaleConnection extends Error {}

function parse<T>(text: string, schema: z.ZodType<T>): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new DeltahopError('DELTAHOP_E_PROTOCOL', 'the agent’s reply is not JSON', { cause: error });
  }
  const checked = schema.safeParse(value);
  if (checked.success) return checked.data;
  throw new DeltahopError('DELTAHOP_E_PROTOCOL', `the agent’s reply: ${firstIssue(checked.error)}`, {
    cause: checked.error,
  });
}

const nothing = z.unknown();

/** What the command line asks of the agent on its own machine. */
export class LocalClient {
  readonly #connection: Connection;

  /** @param statePath The agent's state directory, for the message if no agent is there. */
  constructor(socketPath: string, statePath: string) {
    this.#connection = new Connection(
      { socketPath },
      (reason, cause) => {
        const why: Record<string, string> = {
          ENOENT: 'it has no socket of an agent',
          ENOTDIR: 'it is no directory',
          ECONNREFUSED: 'its agent has ended',
          EACCES: 'its agent belongs to another user',
        };
        const message = `no agent answers for ${statePath}: ${why[reason] ?? reason}`;
        return new DeltahopError('DELTAHOP_E_NO_AGENT', message, { cause });
      },
      null,
    );
  }

  close(): void {
    this.#connection.close();
  }

  node(): Promise<NodeReply> {
    return this.#connection.json({ method: 'GET', path: ['node'], limitMs: 10_000 }, nodeReplySchema);
  }

  /** Events `job`, `progress`..., and last `layer` or `error`. */
  importLayer(layer: {
    kind: string;
    name: string;
    parent: string | null;
    path: string;
  }): AsyncGenerator<StreamedEvent> {
    return this.#connection.events({ method: 'POST', path: ['layers'], body: layer, limitMs: null });
  }

  async layers(): Promise<LayerView[]> {
    const schema = z.object({ layers: z.array(layerViewSchema) });
    return (await this.#connection.json({ method: 'GET', path: ['layers'], limitMs: 30_000 }, schema)).layers;
  }

  removeLayer(reference: string): Promise<LayerRemoval> {
    return this.#connection.json({ method: 'DELETE', path: ['layers', reference], limitMs: null }, layerRemovalSchema);
  }

  addService(service: ServiceAdd): Promise<ServiceView> {
    return this.#connection.json(
      { method: 'POST', path: ['services'], body: service, limitMs: null },
      serviceViewSchema,
    );
  }

  /** Events `job`, `progress`..., and last `service` or `error`. */
  adoptService(service: ServiceAdopt): AsyncGenerator<StreamedEvent> {
    return this.#connection.events({ method: 'POST', path: ['services', 'adopt'], body: service, limitMs: null });
  }

  async services(): Promise<ServiceView[]> {
    const schema = z.object({ services: z.array(serviceViewSchema) });
    return (await this.#connection.json({ method: 'GET', path: ['services'], limitMs: 60_000 }, schema)).services;
  }

  service(name: string): Promise<ServiceView> {
    return this.#connection.json({ method: 'GET', path: ['services', name], limitMs: 30_000 }, serviceViewSchema);
  }

  changeService(name: string, change: 'start' | 'stop'): Promise<ServiceView> {
    return this.#connection.json(
      { method: 'POST', path: ['services', name, change], limitMs: null },
      serviceViewSchema,
    );
  }

  async removeService(name: string): Promise<void> {
    await this.#connection.json({ method: 'DELETE', path: ['services', name], limitMs: null }, nothing);
  }

  /** Events `job`, `phase`, `progress`..., and last `summary` or `error`. */
  migrate(name: string, order: MigrateOptions): AsyncGenerator<StreamedEvent> {
    return this.#connection.events({
      method: 'POST',
      path: ['services', name, 'migrate'],
      body: order,
      limitMs: null,
    });
  }

  /** What a migration would meet and cost. */
  dryRun(name: string, order: Pick<MigrateOptions, 'to' | 'autoConverge' | 'onCommit'>): Promise<DryRunView> {
    const path = ['services', name, 'dry-run'];
    return this.#connection.json({ method: 'POST', path, body: order, limitMs: 120_000 }, dryRunSchema);
  }

  async jobs(): Promise<JobView[]> {
    const schema = z.object({ jobs: z.array(jobViewSchema) });
    return (await this.#connection.json({ method: 'GET', path: ['jobs'], limitMs: 10_000 }, schema)).jobs;
  }

  /** The events of a job, from its first to its last. */
  followJob(id: string): AsyncGenerator<StreamedEvent> {
    return this.#connection.events({ method: 'GET', path: ['jobs', id], limitMs: null });
  }

  /** Tries at once whatever hand-off is not settled. */
  async recover(): Promise<HandOffView[]> {
    const schema = z.object({ handOffs: z.array(handOffViewSchema) });
    return (await this.#connection.json({ method: 'POST', path: ['recover'], limitMs: null }, schema)).handOffs;
  }

  resolve(service: string, keep: 'source' | 'destination'): Promise<HandOffView> {
    return this.#connection.json(
      { method: 'POST', path: ['services', service, 'resolve'], body: { keep }, limitMs: null },
      handOffViewSchema,
    );
  }

  /** Asks a job to stop. Its events say what becomes of it. */
  async cancelJob(id: string): Promise<void> {
    await this.#connection.json({ method: 'DELETE', path: ['jobs', id], limitMs: 10_000 }, nothing);
  }
}

/** A peer says every second that it is at work; a link that is silent for so long is dead, and a service may be frozen. */
const peerSilenceMs = 8_000;

/** The other side of a migration, as an agent calls it over the network. */
export class PeerConnection implements PeerLink {
  readonly #connection: Promise<Connection>;
  #counters: () => ByteCounters = () => ({ bytesSent: 0, bytesReceived: 0 });

  /**
   * @param address For messages, as the user wrote it.
   * @param target Resolves to where that is; a rejection is that of the first request.
   */
  constructor(address: string, target: Promise<Target>) {
    this.#connection = target.then((resolved) => {
      const connection = new Connection(
        resolved,
        (reason, cause) => new DeltahopError('DELTAHOP_E_LINK', `cannot talk to ${address}: ${reason}`, { cause }),
        peerSilenceMs,
      );
      this.#counters = () => connection.counters;
      return connection;
    });
    this.#connection.catch(() => {});
  }

  get counters(): ByteCounters {
    return this.#counters();
  }

  close(): void {
    this.#connection.then((connection) => connection.close()).catch(() => {});
  }

  async offer(offer: Offer): Promise<OfferReply> {
    return await this.#ask({ method: 'POST', path: ['migrations'], body: offer, limitMs: 60_000 }, offerReplySchema);
  }

  async examine(offer: Offer): Promise<Examination> {
    const path = ['migrations', 'examine'];
    return await this.#ask({ method: 'POST', path, body: offer, limitMs: 60_000 }, examinationSchema);
  }

  async ping(bytes: number): Promise<void> {
    const body = { padding: 'x'.repeat(bytes) };
    await this.#ask({ method: 'POST', path: ['ping'], body, limitMs: 60_000 }, nothing);
  }

  async sealLayer(migration: string, layerDigest: string): Promise<void> {
    // The destination reads the whole layer to verify it: minutes for a large one on a small machine.
    const path = ['migrations', migration, 'layers', layerDigest, 'seal'];
    await this.#ask({ method: 'POST', path, limitMs: 1_800_000 }, nothing);
  }

  async arrange(migration: string): Promise<void> {
    await this.#ask({ method: 'POST', path: ['migrations', migration, 'arrange'], limitMs: 90_000 }, nothing);
  }

  async arrangeOnArrival(migration: string, slots: readonly string[]): Promise<void> {
    const path = ['migrations', migration, 'arrange-on-arrival'];
    await this.#ask({ method: 'POST', path, body: { slots }, limitMs: 15_000 }, nothing);
  }

  async prepare(migration: string): Promise<PrepareReply> {
    const path = ['migrations', migration, 'prepare'];
    return await this.#ask({ method: 'POST', path, limitMs: 90_000 }, prepareReplySchema);
  }

  async prepareOnArrival(migration: string, slots: readonly string[]): Promise<PrepareReply> {
    const path = ['migrations', migration, 'prepare-on-arrival'];
    return await this.#ask({ method: 'POST', path, body: { slots }, limitMs: 600_000 }, prepareReplySchema);
  }

  async commit(migration: string): Promise<CommitReply> {
    return await this.#ask(
      { method: 'POST', path: ['migrations', migration, 'commit'], limitMs: 15_000 },
      commitReplySchema,
    );
  }

  async abort(migration: string): Promise<void> {
    await this.#ask({ method: 'POST', path: ['migrations', migration, 'abort'], limitMs: 15_000 }, nothing);
  }

  async health(migration: string): Promise<HealthReply> {
    // Longer than its probe may take there: no answer within that is a word of the service's, not of the link's.
    return await this.#ask(
      { method: 'GET', path: ['migrations', migration, 'health'], limitMs: 10_000 },
      healthReplySchema,
    );
  }

  async verdict(migration: string): Promise<VerdictReply> {
    return await this.#ask(
      { method: 'GET', path: ['migrations', migration, 'verdict'], limitMs: 5_000 },
      verdictReplySchema,
    );
  }

  async cede(migration: string, epoch: number): Promise<void> {
    const path = ['migrations', migration, 'cede'];
    await this.#ask({ method: 'POST', path, body: { epoch }, limitMs: 60_000 }, nothing);
  }

  async #ask<T>(ask: Ask, schema: z.ZodType<T>): Promise<T> {
    return await (await this.#connection).json(ask, schema);
  }
}
