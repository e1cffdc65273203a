/** `npm run bench:downtime`: for how long a service stands still in a hop, on what, and how well that was foreseen. */
import { writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { Command } from 'commander';
import { Testbed } from '../../test/testbed/testbed.js';
import { median } from '../rows.js';
import { downtimeCases } from './cases.js';
import { type CaseResult, type Foresight, type HopRow, measureHops } from './hops.js';

interface Flags {
  case?: string;
  hops: string;
  json?: string;
}

const {
  case: only,
  hops,
  json,
} = new Command('bench:downtime')
  .description('Measures the downtime of hops between two nodes on this machine. Needs root.')
  .option('--case <name>', `only this one of ${downtimeCases.map(({ name }) => name).join(', ')}`)
  .option('--hops <n>', 'hops of each case, there and back in turn', '6')
  .option('--json <file>', 'where every hop goes')
  .parse()
  .opts<Flags>();

const unavailable = Testbed.unavailable();
if (unavailable !== null) {
  console.error(`Nothing can be measured here: ${unavailable}`);
  process.exit(1);
}
const chosen = downtimeCases.filter(({ name }) => only === undefined || name === only);
if (chosen.length === 0 || !(Number(hops) >= 1)) {
  console.error('There is no such case, or no hop in it: see --help.');
  process.exit(2);
}
const stopped = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopped.abort());

console.log(`50 Mbit/s, 20 ms there and back; load of this machine before: ${loadavg()[0]?.toFixed(1)}`);
const rows: HopRow[] = [];
for (const one of chosen) {
  const result = await measureHops(one, Number(hops), stopped.signal);
  rows.push(...result.hops);
  show(`${one.name}: ${one.description}`, result);
}
if (json !== undefined) writeFileSync(json, `${JSON.stringify(rows, null, 1)}\n`);

function show(title: string, { hops, client }: CaseResult): void {
  const middle = (of: (row: HopRow) => number | undefined): number =>
    median(hops.map(of).filter((value) => value !== undefined));
  const ms = hops.map(({ downtimeMs }) => downtimeMs);
  console.log(`\n${title}`);
  console.log(`  downtime: median ${median(ms)} ms of ${hops.length} hops (${Math.min(...ms)} to ${Math.max(...ms)})`);
  for (const stage of Object.keys(hops[0]?.stages ?? {})) {
    console.log(`    ${stage.padEnd(16)} ${middle(({ stages }) => stages[stage])} ms`);
  }
  console.log(
    `  sent: ${middle(({ bytesSent }) => bytesSent)} bytes, of them frozen ${middle((row) => row.finalBytes)}`,
  );
  const foreseen = (of: (row: HopRow) => Foresight | null | undefined): string => {
    const all = hops.map(of).filter((one) => one != null);
    if (all.length === 0) return 'not said';
    const within = all.filter((one) => one.within).length;
    return `${median(all.map(({ ratio }) => ratio)).toFixed(2)} (in its bounds ${within} of ${all.length})`;
  };
  console.log(
    `  forecast by what came: downtime ${foreseen((row) => row.forecast?.downtime)}, bytes ${foreseen((row) => row.forecast?.bytes)}, time ${foreseen((row) => row.forecast?.total)}`,
  );
  const { requests, lost, duplicated, reconnects, longestGapMs } = client;
  console.log(
    `  client: ${requests} requests, ${lost} lost, ${duplicated} duplicated, ${reconnects} reconnects, longest gap ${longestGapMs} ms`,
  );
}
