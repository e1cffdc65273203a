/** A throttle on a real thread, in the kernel's own cgroups; it must never be left, whoever is killed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { MachineThrottle, quotaOf, tryThrottle, unthrottle } from '../../../src/workload/machine/throttle.js';
import { testUnless } from '../../support/obstacle.js';
import { throttleUnavailable } from '../../support/throttle.js';

interface Context {
  directory: string;
  list: string;
  busy: ChildProcess;
  pid: number;
}

const test = suite<Context>('machine throttle');

test.before.each(async (context) => {
  context.directory = mkdtempSync(join(tmpdir(), 'deltahop-throttle-'));
  context.list = join(context.directory, 'throttled');
  context.busy = spawn('sh', ['-c', 'while :; do :; done'], { stdio: 'ignore' });
  await once(context.busy, 'spawn');
  context.pid = context.busy.pid ?? 0;
});

test.after.each(async ({ directory, busy }) => {
  if (busy.exitCode === null && busy.signalCode === null) {
    busy.kill('SIGKILL');
    await once(busy, 'exit');
  }
  rmSync(directory, { recursive: true, force: true });
});

/** Clock ticks of a hundredth of a second that a process has run. */
function ticksOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

/** How much of a processor it has had in half a second. */
async function shareOf(pid: number): Promise<number> {
  const [before, startedAt] = [ticksOf(pid), performance.now()];
  await sleep(500);
  return ((ticksOf(pid) - before) * 10) / (performance.now() - startedAt);
}

function isThrottled({ list, pid }: Context): boolean {
  return existsSync(list) || readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes('deltahop-');
}

async function untilFree(context: Context): Promise<void> {
  for (const deadline = Date.now() + 5_000; isThrottled(context); await sleep(10)) {
    assert.ok(Date.now() < deadline, 'it is throttled still');
  }
}

/** Numbers of the processes that wait with the list in their arguments. */
function holdersOf(list: string): number[] {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .filter((entry) => {
      try {
        return readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0').includes(list);
      } catch {
        return false;
      }
    })
    .map(Number);
}

test('a share is a quota that the kernel takes, in a period as short as it can be', () => {
  assert.equal(quotaOf(1), { quotaUs: 10_000, periodUs: 10_000 });
  assert.equal(quotaOf(1 / 4), { quotaUs: 2_500, periodUs: 10_000 });
  assert.equal(quotaOf(1 / 16), { quotaUs: 1_000, periodUs: 16_000 });
  assert.equal(quotaOf(1 / 64), { quotaUs: 1_000, periodUs: 64_000 });
  assert.equal(quotaOf(1 / 1000), { quotaUs: 1_000, periodUs: 100_000 });
});

const check = testUnless(test, await throttleUnavailable());

check('it gets its share, more or less of it, and then all again', async (context) => {
  const throttle = await MachineThrottle.start(context.list, context.pid, [context.pid]);
  await throttle.set(1 / 4);
  assert.ok((await shareOf(context.pid)) < 0.35);
  await throttle.set(1 / 64);
  assert.ok((await shareOf(context.pid)) < 0.06);
  await throttle.lift();
  assert.ok((await shareOf(context.pid)) > 0.06);
  await throttle.end();
  assert.not.ok(isThrottled(context));
  assert.equal(holdersOf(context.list), []);
});

check('to try it leaves nothing', async (context) => {
  assert.match(await tryThrottle(context.pid, context.pid), /^cgroup v[12]$/);
  assert.not.ok(isThrottled(context));
});

check('a thread that has ended meanwhile is no obstacle', async (context) => {
  const throttle = await MachineThrottle.start(context.list, context.pid, [context.pid]);
  await throttle.set(1 / 16);
  context.busy.kill('SIGKILL');
  await once(context.busy, 'exit');
  await throttle.end();
  assert.not.ok(existsSync(context.list));
});

check('one that can not be throttled is an error, and nothing is left', async (context) => {
  const gone = 4_194_303;
  let failure: unknown = null;
  await MachineThrottle.start(context.list, context.pid, [context.pid, gone]).catch((error: unknown) => {
    failure = error;
  });
  assert.instance(failure, Error);
  assert.not.ok(isThrottled(context));
});

check('with a holder that was killed it is taken back at the end', async (context) => {
  const throttle = await MachineThrottle.start(context.list, context.pid, [context.pid]);
  await throttle.set(1 / 64);
  for (const pid of holdersOf(context.list)) process.kill(pid, 'SIGKILL');
  await throttle.end();
  assert.not.ok(isThrottled(context));
});

/** A process that throttles, says so and is killed. */
async function throttledByAnother({ list, pid }: Context, beforeItDies: () => void = () => {}): Promise<void> {
  const module = fileURLToPath(new URL('../../../src/workload/machine/throttle.js', import.meta.url));
  const text = `const { MachineThrottle } = await import(${JSON.stringify(module)});
const throttle = await MachineThrottle.start(${JSON.stringify(list)}, ${pid}, [${pid}]);
await throttle.set(1 / 64);
process.stdout.write('throttled');
setInterval(() => {}, 1000);`;
  const other = spawn(process.execPath, ['--input-type=module', '-e', text], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(other.stdout, 'data');
  beforeItDies();
  other.kill('SIGKILL');
  await once(other, 'exit');
}

check('whoever throttles it may be killed: the holder takes it back', async (context) => {
  await throttledByAnother(context);
  await untilFree(context);
});

check('the holder may be killed too: the list says what is to be taken back', async (context) => {
  await throttledByAnother(context, () => {
    for (const pid of holdersOf(context.list)) process.kill(pid, 'SIGKILL');
  });
  assert.ok((await shareOf(context.pid)) < 0.06, 'nobody was there to take it back');
  await unthrottle(context.list);
  assert.not.ok(isThrottled(context));
});

test.run();
