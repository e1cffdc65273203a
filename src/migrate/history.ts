/** What hops from this node have cost, and what is known of the links: for the forecasts. Losing it loses no service. */
import { dirname } from 'node:path';
import * as z from 'zod';
import { readJson, removeUnfinishedWrites, writeJsonDurably } from '../layers/durable-file.js';
import type { PastHop } from './forecast.js';

const count = z.number().nonnegative();

const hopSchema = z.object({
  service: z.string(),
  to: z.string(),
  returning: z.boolean(),
  memoryBytes: count,
  layerBytesSent: count,
  instanceBytesSent: count,
  finalBytesSent: count,
  totalMs: count,
  downtimeMs: count,
  downtime: z.array(
    z.object({
      stage: z.enum(['dump', 'transfer', 'restore', 'decision', 'release', 'messages']),
      ms: count,
      driverMs: count.optional(),
    }),
  ),
});

const historySchema = z.object({
  format: z.literal(1),
  hops: z.array(hopSchema),
  /** Bytes a millisecond towards an address, as last measured. */
  rates: z.record(z.string(), count),
});

const keptHops = 100;
const keptRates = 100;

/** The memory of one node. */
export class History {
  readonly #path: string;
  #hops: PastHop[] = [];
  #rates = new Map<string, number>();
  #writing: Promise<void> = Promise.resolve();

  private constructor(path: string) {
    this.#path = path;
  }

  /** @param path Its file. One that cannot be read is as good as none. */
  static async open(path: string): Promise<History> {
    const history = new History(path);
    const stored = await removeUnfinishedWrites(dirname(path))
      .then(() => readJson(path, historySchema))
      .catch(() => null);
    if (stored !== null) {
      history.#hops = stored.hops.map(({ downtime, ...hop }) => ({
        ...hop,
        downtime: downtime.map(({ driverMs, ...stage }) => ({
          ...stage,
          ...(driverMs === undefined ? {} : { driverMs }),
        })),
      }));
      history.#rates = new Map(Object.entries(stored.rates));
    }
    return history;
  }

  /** The newest last. */
  get hops(): readonly PastHop[] {
    return this.#hops;
  }

  /** Bytes a millisecond towards an address; null if it was never measured. */
  rate(address: string): number | null {
    return this.#rates.get(address) ?? null;
  }

  /** Never rejects: a full disk takes the memory of what was, not what is. */
  async addHop(hop: PastHop): Promise<void> {
    this.#hops = [...this.#hops, hop].slice(-keptHops);
    await this.#write();
  }

  /** Never rejects. */
  async setRate(address: string, bytesPerMs: number): Promise<void> {
    this.#rates.delete(address);
    this.#rates.set(address, bytesPerMs);
    for (const oldest of [...this.#rates.keys()].slice(0, -keptRates)) this.#rates.delete(oldest);
    await this.#write();
  }

  async #write(): Promise<void> {
    const text = { format: 1, hops: this.#hops, rates: Object.fromEntries(this.#rates) };
    this.#writing = this.#writing.then(() => writeJsonDurably(this.#path, text).catch(() => {}));
    await this.#writing;
  }
}
