/** The services whose downtime is measured. */

/** One service, and what its user does meanwhile. */
export interface DowntimeCase {
  name: string;
  description: string;
  /** What redis holds when the hops begin. */
  fillMib: number;
}

/** A hop of each is measured on a link of 50 Mbit/s and 20 ms there and back, both layers being at both nodes. */
export const downtimeCases: readonly DowntimeCase[] = [
  { name: 'idle', description: 'redis without data; its one client writes some 600 commands a second', fillMib: 0 },
  { name: 'redis-100', description: 'redis with 100 MiB of data under the same client', fillMib: 100 },
];
