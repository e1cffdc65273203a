import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { JobListener } from '../../../src/engine/addon.js';
import { loadAddon } from '../../../src/engine/loader.js';
import { errorCatalogue } from '../../../src/errors.js';
import { noise } from '../../support/edits.js';
import { testUnless } from '../../support/obstacle.js';

const { addon, path: file } = loadAddon();
const ignore: JobListener = () => undefined;

function signatureOfInput(listener: JobListener = ignore): ReturnType<typeof addon.signatureJob> {
  return addon.signatureJob({ basisPath: null, blockBytes: 512 }, listener);
}

/** Runs a script in a Node of its own; `addon` and `start(listener)` are at hand. */
function runScript(body: string): { status: number | null; signal: string | null; output: string } {
  const prelude = `const addon = require(${JSON.stringify(file)});
    const start = (listener = () => {}) => addon.signatureJob({ basisPath: null, blockBytes: 512 }, listener);`;
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['--expose-gc', '-e', prelude + body], {
    encoding: 'utf8',
    timeout: 30_000,
  });
  return { status, signal, output: stdout + stderr };
}

test('every error code of the engine is in the catalogue, and none is missing', () => {
  assert.ok(addon.errorCodes.length >= 14);
  for (const code of addon.errorCodes) assert.ok(Object.hasOwn(errorCatalogue, code), code);
  assert.is(new Set(addon.errorCodes).size, addon.errorCodes.length);
  const codesInSource = /enum class Code[^{]*\{([^}]*)\}/.exec(readFileSync('native/base/result.h', 'utf8'))?.[1] ?? '';
  assert.is([...codesInSource.matchAll(/^\s*k[A-Z]\w*,/gm)].length, addon.errorCodes.length);
});

test('digests are those of BLAKE3', async () => {
  const { blake3 } = await import('hash-wasm');
  for (const length of [0, 1, 63, 64, 65, 1023, 1024, 1025, 8192, 100_000]) {
    const bytes = noise(length, length);
    assert.is(addon.digest(bytes), `blake3:${await blake3(bytes)}`);
  }
});

test('whatever is not a Job, bytes or the right options is a TypeError', () => {
  const job = signatureOfInput();
  const {
    constructor: JobClass,
    write,
    read,
  } = job as unknown as {
    constructor: new (...args: unknown[]) => unknown;
    write: (...args: unknown[]) => unknown;
    read: () => unknown;
  };
  const other: unknown = createRequire(import.meta.url)('zstd-napi/binding');
  const Foreign = (other as { CCtx: new () => object }).CCtx;
  const attempts: Record<string, () => unknown> = {
    'a Job made by hand': () => new JobClass(),
    'a Job made from an object': () => new JobClass({}),
    'a method on a plain object': () => write.call({}, noise(1, 1)),
    'a method on another addon’s object': () => read.call(new Foreign()),
    'a method on an heir that was never made': () => read.call(Object.create(job)),
    'a string as bytes': () => write.call(job, 'text'),
    'words as bytes': () => write.call(job, new Uint16Array(2)),
    'no options': () => addon.signatureJob(null as never, ignore),
    'an option left out': () => addon.signatureJob({ basisPath: null } as never, ignore),
    'an undefined option': () => addon.signatureJob({ basisPath: undefined, blockBytes: 0 } as never, ignore),
    'a fraction': () => addon.signatureJob({ basisPath: null, blockBytes: 0.5 }, ignore),
    'not a number': () => addon.signatureJob({ basisPath: null, blockBytes: Number.NaN }, ignore),
    'a path with NUL': () => addon.signatureJob({ basisPath: 'a\0b', blockBytes: 0 }, ignore),
    'no listener': () => addon.signatureJob({ basisPath: null, blockBytes: 0 }, null as never),
    'a digest of a string': () => addon.digest('text' as never),
  };
  for (const [what, attempt] of Object.entries(attempts)) {
    assert.throws(
      attempt,
      (error: unknown) => error instanceof TypeError || new Error(`${what}: ${String(error)}`),
      what,
    );
  }
  job.cancel();
});

test('a listener hears its last event once, and events are gathered', async () => {
  const heard = new Map<string, number>();
  const input = noise(1, 4_000_000);
  await new Promise<void>((resolve) => {
    const job = signatureOfInput((...[kind]) => {
      heard.set(kind, (heard.get(kind) ?? 0) + 1);
      while (job.read() !== null);
      if (kind === 'finished' || kind === 'failed') setTimeout(resolve, 20);
    });
    for (let at = 0; at < input.length; at += 500) job.write(input.subarray(at, at + 500));
    job.endInput();
  });
  assert.is(heard.get('finished'), 1);
  assert.is(heard.get('failed'), undefined);
  assert.ok((heard.get('progress') ?? 0) <= 20, `${heard.get('progress')} progress events`);
  assert.ok((heard.get('output') ?? 0) <= 200, `${heard.get('output')} output events`);
});

test('a message is one line of printable text', async () => {
  const failure = await new Promise<{ message: string; code: string }>((resolve, reject) => {
    addon.signatureJob({ basisPath: '/no/such\n\u001b[31mfile', blockBytes: 0 }, (...[kind, value]) => {
      if (kind === 'failed') resolve(value);
      else if (kind === 'finished') reject(new Error('there is such a file'));
    });
  });
  assert.is(failure.code, 'DELTAHOP_E_NOT_FOUND');
  assert.match(failure.message, '/no/such\\x0a\\x1b[31mfile');
});

test('process.exit() in the middle of jobs', () => {
  const { status, output } = runScript(`
    for (let i = 0; i < 8; ++i) { const job = start(); for (let k = 0; k < 20; ++k) job.write(Buffer.alloc(100000, k)); }
    setTimeout(() => process.exit(7), 15);`);
  assert.is(status, 7, output);
});

test('an exit of a worker thread in the middle of jobs', () => {
  for (const end of ['setTimeout(() => process.exit(), 40)', 'setTimeout(() => { throw new Error() }, 40)', '']) {
    const worker = `const addon = require(${JSON.stringify(file)});
      for (let i = 0; i < 8; ++i) {
        const job = addon.signatureJob({ basisPath: null, blockBytes: 512 }, () => { while (job.read() !== null); });
        setInterval(() => job.write(Buffer.alloc(100000, i)), 1);
      } ${end}`;
    const { status, output } = runScript(`
      const threads = () => require('node:fs').readdirSync('/proc/self/task').length;
      const { Worker } = require('node:worker_threads');
      const before = threads();
      const worker = new Worker(${JSON.stringify(worker)}, { eval: true });
      worker.on('error', () => {});
      worker.on('exit', () => process.exit(threads() > before ? 9 : 7));
      setTimeout(() => worker.terminate(), 100);`);
    assert.is(status, 7, output);
  }
});

test('jobs that nobody holds any more are collected, threads and all', () => {
  const { status, output } = runScript(`
    const threads = () => require('node:fs').readdirSync('/proc/self/task').length;
    const before = threads();
    (async () => {
      for (let i = 0; i < 100; ++i) {
        start(Function.prototype).write(Buffer.alloc(10));
        if (i % 10 === 0) { gc(); await new Promise((resolve) => setImmediate(resolve)); }
      }
      for (let i = 0; i < 50 && threads() > before; ++i) { gc(); await new Promise((resolve) => setTimeout(resolve, 10)); }
      process.exit(threads() > before ? 9 : 7);
    })();`);
  assert.is(status, 7, output);
});

test('a listener that throws is an uncaught exception, and the job goes on', () => {
  const { status, output } = runScript(`
    let thrown = 0;
    process.on('uncaughtException', () => { thrown += 1; });
    const job = start((kind) => {
      if (kind === 'finished') { process.exitCode = thrown > 0 ? 7 : 9; return; }
      while (job.read() !== null);
      throw new Error('no');
    });
    for (let i = 0; i < 50; ++i) setTimeout(() => { job.write(Buffer.alloc(1000, i)); if (i === 49) job.endInput(); }, i);`);
  assert.is(status, 7, output);
  const unhandled = runScript(`start(() => { throw new Error('out of a listener'); }).endInput();`);
  assert.is(unhandled.status, 1);
  assert.match(unhandled.output, 'out of a listener');
});

const nm = spawnSync('nm', ['--version']).status === 0;
testUnless(test, nm ? null : 'nm is missing (install binutils)')(
  'the addon exports the entry points of Node-API alone',
  () => {
    const { stdout } = spawnSync('nm', ['-D', '--defined-only', '--format=posix', file], { encoding: 'utf8' });
    const names = stdout
      .trim()
      .split('\n')
      .map((line) => line.split(' ')[0])
      .sort();
    assert.equal(names, ['napi_register_module_v1', 'node_api_module_get_api_version_v1']);
  },
);

test.run();
