import { join } from 'node:path';
import pino from 'pino';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Agent } from '../../../src/agent/daemon.js';
import type { JobView } from '../../../src/agent/messages.js';
import { run } from '../../../src/cli/commands.js';
import { makeBase, scratchDirectory } from '../layers/scratch.js';

const test = suite('cli: jobs and hand-offs');
const scratch = scratchDirectory('cli-jobs');
const statePath = join(scratch, 'state');
const log = pino({ enabled: false });
const options = { statePath, listen: { host: '127.0.0.1', port: 0 }, name: 'edge-a', insecure: false };
let agent: Agent;

async function deltahop(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const said = { out: '', err: '' };
  const into = (stream: 'out' | 'err') => ({
    write: (text: string): void => {
      said[stream] += text;
    },
  });
  const code = await run(args, {
    stdout: into('out'),
    stderr: into('err'),
    env: { DELTAHOP_STATE: statePath },
    hostName: 'this-host',
    log: async () => log,
    onInterrupt: () => () => {},
  });
  return { code, ...said };
}

async function jobs(): Promise<JobView[]> {
  return (JSON.parse((await deltahop('jobs', '--json')).out) as { jobs: JobView[] }).jobs;
}

test.before(async () => {
  makeBase(join(scratch, 'base'));
  agent = await Agent.start(options, log);
  await deltahop('layer', 'import', '--kind', 'base', '--name', 'b', join(scratch, 'base'));
  await deltahop('layer', 'import', '--kind', 'base', '--name', 'c', join(scratch, 'missing'));
});

test.after(async () => {
  await agent.close();
});

test('jobs are listed with what became of them, also by the next agent', async () => {
  const expected = [
    ['import of b', 'done'],
    ['import of c', 'failed'],
  ];
  const shown = async (): Promise<string[][]> => (await jobs()).map(({ title, state }) => [title, state]);
  assert.equal(await shown(), expected);
  assert.match((await deltahop('jobs')).out, /^ID +STATE +STARTED +TOOK +WHAT\n[0-9a-f]{8} +done .* import of b\n/);
  await agent.close();
  agent = await Agent.start(options, log);
  assert.equal(await shown(), expected);
});

test('a job is followed by the beginning of its id; its failure is the exit code', async () => {
  const [good, bad] = await jobs();
  assert.ok(good !== undefined && bad !== undefined);
  const watched = await deltahop('watch', good.id.slice(0, 8), '--json');
  assert.is(watched.code, 0, watched.out);
  assert.is((JSON.parse(watched.out.trim().split('\n').at(-1) ?? '') as { type: string }).type, 'layer');
  const failed = await deltahop('watch', bad.id);
  assert.is(failed.code, 1);
  assert.match(failed.err, /missing/);
  const unknown = await deltahop('cancel', 'ffffffff-0000', '--json');
  assert.is(unknown.code, 1);
  assert.match(unknown.out, /DELTAHOP_E_NOT_FOUND/);
});

test('a job that has ended can not be cancelled, and how it ended is said, also by the next agent', async () => {
  const [good, bad] = await jobs();
  assert.ok(good !== undefined && bad !== undefined);
  const done = await deltahop('cancel', good.id);
  assert.equal([done.code, done.out], [1, '']);
  assert.match(done.err, /^deltahop: the import of b has ended already \(done\)\n.*\[DELTAHOP_E_ENDED\]\n$/);
  const failed = await deltahop('cancel', bad.id.slice(0, 8), '--json');
  assert.is(failed.code, 1);
  assert.match(failed.out, /"DELTAHOP_E_ENDED".*import of c has ended already \(failed: .*missing/);
  await agent.close();
  agent = await Agent.start(options, log);
  assert.match((await deltahop('cancel', good.id)).err, /has ended already \(done\)/);
});

test('with nothing open there is nothing to recover or to resolve', async () => {
  const recovered = await deltahop('recover', '--json');
  assert.is(recovered.code, 0);
  assert.equal(JSON.parse(recovered.out), { type: 'recovered', settled: 0, waiting: 0, handOffs: [] });
  assert.is((await deltahop('recover')).out, 'nothing is open\n');
  const resolved = await deltahop('resolve', 'web', '--keep', 'source', '--json');
  assert.is(resolved.code, 1);
  assert.match(resolved.out, /DELTAHOP_E_NOT_FOUND/);
  assert.is((await deltahop('resolve', 'web')).code, 2);
});

test.run();
