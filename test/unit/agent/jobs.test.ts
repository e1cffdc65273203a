import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { type JobEvent, Jobs } from '../../../src/agent/jobs.js';
import { DeltahopError, isDeltahopError } from '../../../src/errors.js';
import { scratchDirectory } from '../layers/scratch.js';

const test = suite('agent/jobs');
const never = new AbortController().signal;
const ended: string[] = [];

const scratch = scratchDirectory('jobs');
let count = 0;

async function newJobs(path = join(scratch, String(count++))): Promise<Jobs> {
  return await Jobs.open(path, (title, { type }) => ended.push(`${title}: ${type}`));
}

async function gather(events: AsyncIterable<JobEvent>): Promise<JobEvent[]> {
  const all: JobEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

test('a job is followed from its first event to its result, also by who comes late', async () => {
  const job = (await newJobs()).start('work', async (_signal, emit) => {
    emit({ type: 'phase', name: 'one' });
    await sleep(5);
    emit({ type: 'phase', name: 'two' });
    return { type: 'summary' };
  });
  const early = gather(job.follow(never));
  await job.finished;
  const expected = [
    { type: 'job', id: job.id, title: 'work' },
    { type: 'phase', name: 'one' },
    { type: 'phase', name: 'two' },
    { type: 'summary' },
  ];
  assert.equal(await early, expected);
  assert.equal(await gather(job.follow(never)), expected);
});

test('a failure is the last event', async () => {
  const job = (await newJobs()).start('work', async () => {
    throw new DeltahopError('DELTAHOP_E_NO_SPACE', '/var is full');
  });
  const { remedy } = new DeltahopError('DELTAHOP_E_NO_SPACE', '');
  const last = (await gather(job.follow(never))).at(-1);
  await job.finished;
  assert.is(ended.at(-1), 'work: error');
  assert.equal(last, { type: 'error', code: 'DELTAHOP_E_NO_SPACE', message: '/var is full', remedy });
});

test('of progress only the newest is kept, of the rest a bounded number', async () => {
  const job = (await newJobs()).start('work', async (_signal, emit) => {
    for (let doneBytes = 0; doneBytes < 5000; doneBytes += 1) emit({ type: 'progress', doneBytes });
    for (let round = 0; round < 5000; round += 1) emit({ type: 'round', round });
    return { type: 'summary' };
  });
  await job.finished;
  const events = await gather(job.follow(never));
  assert.ok(events.length <= 1000, `${events.length}`);
  assert.equal(events.at(-2), { type: 'round', round: 4999 });
  assert.equal(events.at(-1), { type: 'summary' });

  const quiet = (await newJobs()).start('work', async (_signal, emit) => {
    for (let doneBytes = 0; doneBytes < 5000; doneBytes += 1) emit({ type: 'progress', doneBytes });
    return { type: 'summary' };
  });
  await quiet.finished;
  const [, progress, ...rest] = await gather(quiet.follow(never));
  assert.equal(progress, { type: 'progress', doneBytes: 4999 });
  assert.is(rest.length, 1);
});

test('cancelling reaches the work, with a reason', async () => {
  const jobs = await newJobs();
  const job = jobs.start('a long work', async (signal) => {
    await sleep(60_000, undefined, { signal }).catch(() => {});
    signal.throwIfAborted();
    return { type: 'summary' };
  });
  jobs.cancel(job.id.slice(0, 8));
  const last = (await gather(job.follow(never))).at(-1) as JobEvent & { code: string; message: string };
  assert.is(last.code, 'DELTAHOP_E_CANCELLED');
  assert.match(last.message, /a long work was cancelled/);
  assert.is(job.view.state, 'cancelled');
  assert.throws(
    () => jobs.cancel(job.id),
    (error: unknown) => isDeltahopError(error, 'DELTAHOP_E_ENDED') && error.message.includes('(cancelled)'),
  );
});

test('who stops following does not stop the job', async () => {
  let finish: () => void = () => {};
  const job = (await newJobs()).start('work', async () => {
    await new Promise<void>((resolve) => {
      finish = resolve;
    });
    return { type: 'summary' };
  });
  const leave = new AbortController();
  const seen: JobEvent[] = [];
  for await (const event of job.follow(leave.signal)) {
    seen.push(event);
    leave.abort();
  }
  assert.is(seen.length, 1);
  assert.not(job.done);
  finish();
  await job.finished;
  assert.ok(job.done);
});

test('all are cancelled and waited for when the agent stops', async () => {
  const jobs = await newJobs();
  let cleaned = 0;
  for (let index = 0; index < 3; index += 1) {
    jobs.start('work', async (signal) => {
      await sleep(60_000, undefined, { signal }).catch(() => {});
      await sleep(20);
      cleaned += 1;
      return { type: 'summary' };
    });
  }
  await jobs.cancelAll();
  assert.is(cleaned, 3);
});

test('an unknown job is not found, nor one that ended long ago', async () => {
  const jobs = await newJobs();
  const first = jobs.start('first', async () => ({ type: 'summary' }));
  await first.finished;
  assert.is(jobs.get(first.id), first);
  for (let index = 0; index < 120; index += 1) {
    await jobs.start('another', async () => ({ type: 'summary' })).finished;
  }
  for (const deadline = Date.now() + 20_000; jobs.list().length > 100 && Date.now() < deadline; ) await sleep(10);
  assert.throws(
    () => jobs.get(first.id),
    (error: unknown) => isDeltahopError(error, 'DELTAHOP_E_NOT_FOUND'),
  );
});

test('results outlive the agent: they are listed, and followed by the beginning of their id', async () => {
  const path = join(scratch, 'kept');
  const first = await newJobs(path);
  const job = first.start('migration of web', async () => ({ type: 'summary', result: 'moved' }));
  await sleep(2);
  const failing = first.start('migration of db', async () => {
    throw new DeltahopError('DELTAHOP_E_LINK', 'gone');
  });
  await Promise.all([job.finished, failing.finished]);
  await first.cancelAll();
  const later = await newJobs(path);
  assert.equal(
    later.list().map(({ title, state }) => [title, state]),
    [
      ['migration of web', 'done'],
      ['migration of db', 'failed'],
    ],
  );
  const events = await gather(later.get(job.id.slice(0, 8)).follow(never));
  assert.equal(events.at(-1), { type: 'summary', result: 'moved' });
  assert.equal(events[0], { type: 'job', id: job.id, title: 'migration of web' });
});

test('a job whose agent was killed is shown as interrupted, with what to do', async () => {
  const path = join(scratch, 'interrupted');
  const first = await newJobs(path);
  let finish: () => void = () => {};
  const job = first.start('migration of web', async () => {
    await new Promise<void>((resolve) => {
      finish = resolve;
    });
    return { type: 'summary' };
  });
  for (const deadline = Date.now() + 5000; !existsSync(join(path, `${job.id}.json`)); await sleep(10)) {
    assert.ok(Date.now() < deadline, 'it is not on record');
  }
  const later = await newJobs(path);
  const [view] = later.list();
  assert.equal([view?.id, view?.state, view?.endedAtMs], [job.id, 'interrupted', null]);
  const last = (await gather(later.get(job.id).follow(never))).at(-1) as JobEvent & { code: string; remedy: string };
  assert.is(last.code, 'DELTAHOP_E_INTERRUPTED');
  assert.match(last.remedy, /again/);
  finish();
  await job.finished;
});

test.run();
