/** `npm run bench:machine`: what moving a virtual machine takes, beside QEMU's own live migration and beside rsync. */
import { writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { Command } from 'commander';
import { guestImages } from '../../test/testbed/guest.js';
import { Testbed } from '../../test/testbed/testbed.js';
import { deltahopMoves } from './deltahop.js';
import { liveMigrations, rsyncMoves } from './live-migration.js';
import type { MoveRow } from './measured.js';

const { hops, json } = new Command('bench:machine')
  .description('Moves a guest of 512 MiB between two nodes on this machine, without KVM. Needs root.')
  .option('--hops <n>', 'moves of deltahop before the memory is written anew', '6')
  .option('--json <file>', 'where every move goes')
  .parse()
  .opts<{ hops: string; json?: string }>();

const unavailable = Testbed.unavailable();
if (unavailable !== null) {
  console.error(`Nothing can be measured here: ${unavailable}`);
  process.exit(1);
}
if (!(Number(hops) >= 1)) {
  console.error('There is no hop to be made: see --help.');
  process.exit(2);
}
console.log(`50 Mbit/s, 20 ms there and back, QEMU by TCG; load of this machine before: ${loadavg()[0]?.toFixed(1)}`);
const images = await guestImages();
const rows: MoveRow[] = [];
for (const move of [
  () => deltahopMoves(images, Number(hops)),
  () => liveMigrations(images),
  () => rsyncMoves(images),
]) {
  const made = await move();
  rows.push(...made);
  for (const row of made) console.log(described(row));
}
const first = rows.find(({ way }) => way === 'deltahop, first')?.bytes ?? Number.NaN;
for (const peer of ['QEMU', 'rsync']) {
  const best = Math.min(...rows.filter(({ way }) => way.startsWith(peer)).map(({ bytes }) => bytes));
  console.log(`first move: ${peer} sends ${(best / first).toFixed(2)} times deltahop’s bytes, at its best`);
}
if (json !== undefined) writeFileSync(json, `${JSON.stringify(rows, null, 1)}\n`);

function described({ way, bytes, totalMs, gapMs, final }: MoveRow): string {
  const gap = gapMs === null ? 'stands still all the time' : `client waited ${gapMs} ms`;
  const stages = Object.entries(final?.stages ?? {}).map(([stage, ms]) => `${stage} ${ms}`);
  const down = final === null ? '' : `down ${final.downtimeMs} ms (${stages.join(', ')})`;
  const own = final === null ? '' : `, final pass ${final.bytes} bytes, ${down}`;
  return `${way}: ${(bytes / 1e6).toFixed(2)} MB in ${(totalMs / 1000).toFixed(1)} s, ${gap}${own}`;
}
