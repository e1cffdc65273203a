/** What is measured of each way to move a machine. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Testbed } from '../../test/testbed/testbed.js';

/** The machine's address on the service network. */
export const address = '10.77.0.10';

/** One move of a machine. */
export interface MoveRow {
  way: string;
  /** What the link carried in both directions, headers included. */
  bytes: number;
  /** From the command until the machine runs at the other node. */
  totalMs: number;
  /** The longest time that the user's client waited for an answer; null if it had none: the machine stood still. */
  gapMs: number | null;
  /** What deltahop says of it: what was sent while it stood still, and for how long it did, by stage. */
  final: { bytes: number; downtimeMs: number; stages: Record<string, number> } | null;
}

const restMs = 1500;
const settleMs = 5000;

/** Moves a machine under a client's eyes. @throws Error if it has lost or doubled anything, or its connection. */
export async function measured(testbed: Testbed, way: string, move: () => Promise<MoveRow['final']>): Promise<MoveRow> {
  const client = await testbed.user.startRedisClient({ host: address });
  await sleep(restMs);
  const before = await carried(testbed);
  const startedAt = performance.now();
  const final = await move();
  const totalMs = Math.round(performance.now() - startedAt);
  const bytes = (await carried(testbed)) - before;
  await sleep(restMs);
  const { lost, duplicated, reconnects, longestGapMs } = await client.stop();
  if (lost + duplicated + reconnects > 0) {
    throw new Error(`${way}: ${lost} lost, ${duplicated} duplicated, ${reconnects} reconnects`);
  }
  return { way, bytes, totalMs, gapMs: longestGapMs, final };
}

/** Fulfilled once the machine has booted and come to rest. */
export async function booted(testbed: Testbed): Promise<void> {
  // What has to be filled in waits for the server.
  const client = await testbed.user.startRedisClient({ host: address, fillMib: 1 });
  await client.stop();
  await sleep(settleMs);
}

/** What the link has carried so far, in both directions. */
export async function carried({ link }: Testbed): Promise<number> {
  const { aToB, bToA } = await link.stats();
  return aToB.carriedBytes + bToA.carriedBytes;
}

/** Writes so many MiB of random bytes into the machine's redis. */
export async function fillRandom(testbed: Testbed, mib: number): Promise<void> {
  const script = `exec 3<>/dev/tcp/${address}/6379
for ((n = 0; n < ${mib}; n++)); do
  { printf '*3\\r\\n$3\\r\\nSET\\r\\n$8\\r\\nbulk%04d\\r\\n$1048576\\r\\n' "$n"; head -c 1048576 /dev/urandom; printf '\\r\\n'; } >&3
  read -r line <&3 && [ "\${line:0:3}" = +OK ] || exit 1
done`;
  await testbed.user.runInUser(['bash', '-c', script]);
}
