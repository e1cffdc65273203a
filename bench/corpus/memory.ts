/** Corpora of memory: CRIU images of running programs, dumped again and again while they work. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ended, run } from '../../test/testbed/command.js';
import { criuDirectory } from '../../test/testbed/node.js';
import type { Corpus } from './corpus.js';
import { script } from './debian.js';

const workMs = 300_000;

/** The words in front of a command that end it together with this process, however that one ends. */
export const dieWithParent = ['setpriv', '--pdeathsig', 'KILL', '--'];

/** A program that runs, and how it is made to work between two dumps. */
interface Workload {
  argv: string[];
  /** Waits until it has started (0) or works on the n-th time and is done. */
  phase(child: ChildProcess, number: number): Promise<void>;
}

/** In seconds since 1970; the next ones are an hour apart. */
const firstDumpAtS = 1_700_000_000;

/** Directories `0`, `1`, ... of images of one process. */
function dumped(
  name: string,
  dumps: number,
  workload: (directory: string) => Workload,
  firstAtS: number = firstDumpAtS,
): Corpus {
  return {
    name,
    version: 3,
    make: async (path) => {
      const { argv, phase } = workload(path);
      const [program = '', ...args] = [...dieWithParent, ...argv];
      // A session of its own and no terminal, or CRIU would have to dump those, too.
      const child = spawn(program, args, { detached: true, stdio: 'ignore', cwd: '/' });
      try {
        for (let number = 0; number < dumps; ++number) {
          await phase(child, number);
          const images = join(path, String(number));
          await dump(child, images);
          // rsync takes files of the same size and second for the same, and dumps can follow each other that fast.
          const atS = firstAtS + 3600 * number;
          for (const name of [...readdirSync(images), '.']) utimesSync(join(images, name), atS, atS);
        }
      } finally {
        child.kill('SIGKILL');
        await ended(child, 5000);
      }
    },
  };
}

async function dump(child: ChildProcess, path: string): Promise<void> {
  mkdirSync(path);
  const options = ['--tree', String(child.pid), '--images-dir', path, '--log-file', '/dev/null', '--leave-running'];
  await run([join(criuDirectory, 'criu'), 'dump', ...options, '--file-locks', '--ext-unix-sk'], { timeoutMs: workMs });
}

/** Waits for a line `phase N` that a workload writes. */
async function saidPhase(child: ChildProcess, logPath: string, number: number): Promise<void> {
  if (number > 0) child.kill('SIGUSR2');
  for (const deadline = Date.now() + workMs; ; await sleep(50)) {
    if (existsSync(logPath) && readFileSync(logPath, 'utf8').includes(`phase ${number}\n`)) break;
    if (child.exitCode !== null || Date.now() > deadline) throw new Error('the workload to be dumped does not come up');
  }
  // What it does after its work, such as collecting garbage, belongs to its state.
  await sleep(500);
}

const heapProgram = fileURLToPath(new URL('./workload/heap.js', import.meta.url));

function largeHeap(directory: string): Workload {
  return {
    argv: [process.execPath, '--max-old-space-size=2048', heapProgram, join(directory, 'log')],
    phase: (child, number) => saidPhase(child, join(directory, 'log'), number),
  };
}

/** Node.js with a large heap, of which one object in twenty changes from dump to dump. */
export const nodeHeap: Corpus = dumped('criu-node', 4, largeHeap);

/** The same program started again: every pointer in it is another one. */
export const nodeHeapRestarted: Corpus = dumped(
  'criu-node-restarted',
  1,
  largeHeap,
  // A day after the first one, whose files have the same sizes.
  firstDumpAtS + 86_400,
);

/** A smaller heap, for a quick look. */
export const nodeHeapSmall: Corpus = dumped('criu-node-small', 4, (directory) => ({
  argv: [process.execPath, heapProgram, join(directory, 'log'), '150000'],
  phase: (child, number) => saidPhase(child, join(directory, 'log'), number),
}));

/** Python with an SQLite database in memory, of which one row in a hundred changes. */
export const pythonDatabase: Corpus = dumped('criu-python', 4, (directory) => ({
  argv: ['/usr/bin/python3', script('workload/database.py'), join(directory, 'log')],
  phase: (child, number) => saidPhase(child, join(directory, 'log'), number),
}));

/** redis with 200 MB, written to by its own benchmark between the dumps. */
export const redisWrites: Corpus = dumped('criu-redis', 4, (directory) => {
  const socket = join(directory, 'redis.sock');
  const benchmark = (count: number): string[] => {
    const options = ['-s', socket, '-t', 'set', '-n', String(count), '-r', '300000', '-d', '512', '-P', '16', '-q'];
    return ['redis-benchmark', ...options];
  };
  // In Debian the server is the checking tool by another name, and that one's package starts no service.
  const settings = ['--port', '0', '--unixsocket', socket, '--save', '', '--appendonly', 'no'];
  return {
    argv: ['bash', '-c', 'exec -a redis-server /usr/bin/redis-check-rdb "$@"', 'bash', ...settings],
    phase: async (child, number) => {
      for (const deadline = Date.now() + workMs; number === 0 && !existsSync(socket); await sleep(50)) {
        if (child.exitCode !== null || Date.now() > deadline) throw new Error('redis does not come up');
      }
      await run(benchmark(number === 0 ? 900_000 : 15_000), { timeoutMs: workMs });
      await sleep(500);
    },
  };
});
