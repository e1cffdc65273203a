/**
 * Every step of a migration crossed with every fault, on real nodes with a real container or virtual machine: after each,
 * one copy runs, no counter has gone back, the client's one connection has lost and doubled nothing, nothing is left over,
 * and the next migration works. A virtual machine's disk has to be sound at both nodes, too.
 */
import { Command, Option } from 'commander';
import { benchUnavailable, ProbeBench } from '../integration/support/probe-bench.js';
import { smallDisk } from '../integration/support/small-disk.js';
import { type Cell, cells, type FaultedDriver, nameOf } from './matrix.js';
import { RunWatch } from './run-watch.js';
import { describeOutcome, type Outcome, restLink, Trials } from './trial.js';

/** The nodes' state directories are disks of this size. */
const diskMib: Readonly<Record<FaultedDriver, number>> = { lxc: 160, qemu: 4096 };

/** Most of a trial is waiting: for patience to end, for a link to come back. */
const lanesAtOnce = 2;

/** The last line of `--json`. */
interface Summary {
  type: 'summary';
  injected: number;
  recovered: number;
  lostServices: number;
  doubleRuns: number;
  lostWrites: number;
  leftovers: number;
  needsOperator: number;
}

interface Flags {
  driver: FaultedDriver;
  quick: boolean;
  only: string[];
  times: string;
  seed: string;
  json: boolean;
}

const options = new Command('faults')
  .description(
    'Injects faults into migrations between two nodes on this machine, and judges what became of them. Needs root.',
  )
  .addOption(new Option('--driver <name>', 'what moves').choices(['lxc', 'qemu']).default('lxc'))
  .option('--quick', 'the short table, of containers only', false)
  .option('--only <step/fault...>', 'the faults whose name contains one of these', [''])
  .option('--times <n>', 'each fault so many times', '1')
  .option('--seed <n>', 'of the order', String(Date.now() % 1_000_000))
  .option('--json', 'a line of JSON for each fault, then the summary', false)
  .parse()
  .opts<Flags>();

function say(text: string): void {
  if (!options.json) process.stdout.write(`${text}\n`);
}

/** The same order for the same seed (Fisher and Yates, with the generator of Park and Miller). */
function shuffled(given: readonly Cell[], seed: number): Cell[] {
  const all = [...given];
  let state = (seed % 2_147_483_646) + 1;
  for (let index = all.length - 1; index > 0; index--) {
    state = (state * 48_271) % 2_147_483_647;
    const other = state % (index + 1);
    const [a, b] = [all[index], all[other]];
    if (a !== undefined && b !== undefined) [all[index], all[other]] = [b, a];
  }
  return all;
}

async function makeBench(driver: FaultedDriver): Promise<ProbeBench> {
  return await ProbeBench.create({
    driver,
    link: restLink,
    prepare: async (testbed) => {
      for (const node of testbed.nodes) await smallDisk(testbed, node, diskMib[driver]);
    },
  });
}

/** Takes faults from a queue, on a testbed of its own, until there are no more. */
async function lane(
  driver: FaultedDriver,
  queue: Cell[],
  watch: RunWatch,
  benches: Set<ProbeBench>,
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  let bench: ProbeBench | null = null;
  let trials: Trials | null = null;
  const end = async (): Promise<void> => {
    trials = null;
    if (bench === null) return;
    await bench.testbed.dispose();
    benches.delete(bench);
    bench = null;
  };
  try {
    for (let cell = queue.shift(); cell !== undefined; cell = queue.shift()) {
      if (bench === null || trials === null) {
        bench = await makeBench(driver);
        benches.add(bench);
        trials = new Trials(driver, bench, watch, await bench.client.state());
      }
      const outcome = await trials.run(cell);
      outcomes.push(outcome);
      if (options.json) process.stdout.write(`${JSON.stringify(outcome)}\n`);
      say(describeOutcome(cell, outcome));
      if (!isWrong(outcome)) continue;
      for (const node of bench.testbed.nodes) {
        process.stderr.write(`the agent of ${node.name} said last:\n${node.agentLogTail()}\n`);
      }
      // What a fault has broken must not be counted against the next one.
      await end();
    }
  } finally {
    await end();
  }
  return outcomes;
}

function isWrong({ doubleRuns, lostWrites, leftovers, problems }: Outcome): boolean {
  return doubleRuns.length + lostWrites.length + leftovers.length + problems.length > 0;
}

/** Under the design's table an operator is needed only where one node is out of the other's reach for good. */
function isOperatorsDue({ fault }: Outcome): boolean {
  return fault === 'cut-for-ever';
}

function summarize(outcomes: readonly Outcome[]): Summary {
  const injected = outcomes.filter((outcome) => outcome.injected);
  const count = (which: (outcome: Outcome) => boolean): number => injected.filter(which).length;
  return {
    type: 'summary',
    injected: injected.length,
    recovered: count((outcome) => !isWrong(outcome)),
    lostServices: count(({ result }) => result === 'lost'),
    doubleRuns: count(({ doubleRuns }) => doubleRuns.length > 0),
    lostWrites: count(({ lostWrites }) => lostWrites.length > 0),
    leftovers: count(({ leftovers }) => leftovers.length > 0),
    needsOperator: count(({ needsOperator }) => needsOperator),
  };
}

async function main(): Promise<boolean> {
  const unavailable = benchUnavailable();
  if (unavailable !== null) throw new Error(`faults can not be injected here: ${unavailable}`);
  const { driver, only } = options;
  const [times, seed] = [Number(options.times), Number(options.seed)];
  if (!(times >= 1 && seed >= 0)) throw new Error('--times and --seed are numbers');
  const named = cells(driver, options.quick).filter((cell) => only.some((name) => nameOf(cell).includes(name)));
  if (named.length === 0) throw new Error(`no fault is named ${only.join(' or ')}`);
  const chosen = shuffled(Array.from({ length: times }, () => named).flat(), seed);
  say(`${chosen.length} faults, order of --seed ${seed}`);

  const benches = new Set<ProbeBench>();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      void Promise.allSettled([...benches].map(({ testbed }) => testbed.dispose())).then(() => process.exit(130));
    });
  }
  const watch = new RunWatch();
  const queue = [...chosen];
  const lanes = Array.from({ length: Math.min(lanesAtOnce, queue.length) }, () => lane(driver, queue, watch, benches));
  const ends = await Promise.allSettled(lanes);
  await watch.end();
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
  const outcomes = ends.flatMap((end) => (end.status === 'fulfilled' ? end.value : []));
  const summary = summarize(outcomes);
  const recoveries = outcomes.filter(({ injected }) => injected).map(({ recoveryMs }) => recoveryMs);
  recoveries.sort((a, b) => a - b);
  say(`recovery: median ${recoveries[recoveries.length >> 1] ?? 0} ms, longest ${recoveries.at(-1) ?? 0} ms`);
  const missed = outcomes.filter(({ injected }) => !injected);
  if (missed.length > 0) say(`missed: ${missed.map(({ step, fault }) => `${step}/${fault}`).join(', ')}`);
  process.stdout.write(`${options.json ? JSON.stringify(summary) : inWords(summary)}\n`);
  const undue = outcomes.some((outcome) => outcome.needsOperator && !isOperatorsDue(outcome));
  return summary.recovered === summary.injected && summary.injected > 0 && !outcomes.some(isWrong) && !undue;
}

function inWords({ type: _, ...counts }: Summary): string {
  return Object.entries(counts)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ');
}

process.exitCode = await main().then(
  (good) => (good ? 0 : 1),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
    return 1;
  },
);
