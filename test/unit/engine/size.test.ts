import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readSync, statfsSync, statSync, writeSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadEngine, type OperationReport } from '../../../src/engine/engine.js';
import { noise } from '../../support/edits.js';
import { testUnless } from '../../support/obstacle.js';
import { withScratch } from '../../support/scratch.js';

const engine = loadEngine();
const program = fileURLToPath(new URL('../../support/engine-process.js', import.meta.url));
const mebibyte = 1 << 20;
const gibibyte = 1 << 30;
const memoryLimitBytes = 256 * mebibyte;

const space = statfsSync(tmpdir());
const needBytes = 5 * gibibyte;
const obstacle =
  space.bavail * space.bsize > needBytes ? null : `${tmpdir()} has less than ${needBytes / gibibyte} GiB free`;

/** A mebibyte that differs from all others: noise with its number at every page, which no compressor or hash sees through. */
function uniqueMebibyte(number: number): Buffer {
  const bytes = noise(number % 4096, mebibyte);
  for (let at = 0; at < mebibyte; at += 512) bytes.writeUInt32LE((number * 2_654_435_761 + at) >>> 0, at);
  return bytes;
}

/** Writes a file of `mebibytes` different ones, behind `head`. */
function writeUnique(path: string, mebibytes: number, head = ''): void {
  const fd = openSync(path, 'w');
  writeSync(fd, head);
  for (let i = 0; i < mebibytes; ++i) writeSync(fd, uniqueMebibyte(i));
  closeSync(fd);
}

/** Writes a sparse file that has a mebibyte of data at each of `count` places. */
function writeSparse(path: string, sizeBytes: number, count: number, firstNumber = 0): void {
  const fd = openSync(path, 'w');
  ftruncateSync(fd, sizeBytes);
  const stride = Math.floor(sizeBytes / count / mebibyte) * mebibyte;
  for (let i = 0; i < count; ++i)
    writeSync(fd, uniqueMebibyte(firstNumber + i), 0, mebibyte, i * stride + 4096 * (i % 7));
  closeSync(fd);
}

interface Outcome {
  report: OperationReport;
  peakBytes: number;
}

function start(...args: string[]): { child: ChildProcess; outcome: Promise<Outcome> } {
  const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  const outcome = new Promise<Outcome>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0) resolve(JSON.parse(output) as Outcome);
      else reject(new Error(`${args[0]} ended with exit code ${code}`));
    });
  });
  return { child, outcome };
}

/** Joins the two connections that come first. */
async function listen(): Promise<{ server: Server; port: number }> {
  const waiting: Socket[] = [];
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    const other = waiting.pop();
    if (other === undefined) waiting.push(socket);
    else {
      socket.pipe(other);
      other.pipe(socket);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return { server, port: address.port };
}

/** Sends a tree from one process to another. */
async function transfer(source: string, target: string): Promise<[Outcome, Outcome]> {
  const { server, port } = await listen();
  const sides = [start('send', String(port), source), start('receive', String(port), target)] as const;
  try {
    return await Promise.all([sides[0].outcome, sides[1].outcome]);
  } catch (error) {
    for (const { child } of sides) child.kill();
    throw error;
  } finally {
    server.close();
  }
}

function assertMemory(outcomes: readonly Outcome[]): void {
  for (const { peakBytes } of outcomes) {
    assert.ok(peakBytes > 0 && peakBytes < memoryLimitBytes, `${Math.round(peakBytes / mebibyte)} MiB at the peak`);
  }
}

/** Whether two files hold the same bytes; holes are passed over quickly by the kernel, so sizes matter little. */
async function sameContent(left: string, right: string): Promise<boolean> {
  if (statSync(left).size !== statSync(right).size) return false;
  const descriptors = [openSync(left, 'r'), openSync(right, 'r')] as const;
  const buffers = [Buffer.allocUnsafe(16 * mebibyte), Buffer.allocUnsafe(16 * mebibyte)] as const;
  try {
    for (let at = 0; ; ) {
      const counts = [0, 1].map((i) => readSync(descriptors[i as 0 | 1], buffers[i as 0 | 1], 0, 16 * mebibyte, at));
      const count = counts[0] ?? 0;
      if (count !== counts[1]) return false;
      if (count === 0) return true;
      if (!buffers[0].subarray(0, count).equals(buffers[1].subarray(0, count))) return false;
      at += count;
    }
  } finally {
    for (const descriptor of descriptors) closeSync(descriptor);
  }
}

const testSized = testUnless(test, obstacle);

testSized('one byte inserted in front of 1 GiB costs less than 64 KiB', () =>
  withScratch(async (directory) => {
    const path = (name: string): string => join(directory, name);
    writeUnique(path('basis'), 1024);
    writeUnique(path('target'), 1024, 'x');
    const signature = await start('signature', '0', path('basis'), path('signature')).outcome;
    const delta = await start('delta', '0', path('signature'), path('target'), path('delta')).outcome;
    assert.ok(
      (delta.report.statistics['literalBytes'] ?? Number.NaN) < 65_536,
      JSON.stringify(delta.report.statistics),
    );
    assert.ok(statSync(path('delta')).size < 65_536);
    const patch = await start('patch', '0', path('basis'), path('delta'), path('basis')).outcome;
    assertMemory([signature, delta, patch]);
    assert.ok(await sameContent(path('basis'), path('target')));
  }),
);

testSized('8 GiB with 100 MiB of data takes no more disk at the target', () =>
  withScratch(async (directory) => {
    await mkdir(join(directory, 'source'));
    const [source, target] = [join(directory, 'source/disk'), join(directory, 'target/disk')];
    writeSparse(source, 8 * gibibyte, 100);
    const [sent] = await transfer(join(directory, 'source'), join(directory, 'target'));
    const [before, after] = [statSync(source), statSync(target)];
    assert.is(after.size, before.size);
    // A file system may need a few more blocks for its own maps.
    assert.ok(
      after.blocks <= before.blocks + 2048,
      `${after.blocks} blocks at the target, ${before.blocks} at the source`,
    );
    assert.ok(
      (sent.report.statistics['readBytes'] ?? Number.NaN) < 400 * mebibyte,
      JSON.stringify(sent.report.statistics),
    );
    const digests = await Promise.all(['source', 'target'].map((name) => engine.treeDigest(join(directory, name))));
    assert.is(digests[0]?.digest, digests[1]?.digest);
  }),
);

testSized('neither side needs 256 MiB for a changed sparse file of 16 GiB', () =>
  withScratch(async (directory) => {
    for (const name of ['source', 'target']) await mkdir(join(directory, name));
    const [source, target] = [join(directory, 'source/disk'), join(directory, 'target/disk')];
    for (const path of [source, target]) writeSparse(path, 16 * gibibyte, 128);
    // Some of the data changes in place, some is new.
    const fd = openSync(source, 'r+');
    for (let i = 0; i < 16; ++i) writeSync(fd, uniqueMebibyte(5000 + i), 0, mebibyte, i * gibibyte + 77 * mebibyte);
    writeSync(fd, 'changed', 3 * 128 * mebibyte + 12_345);
    closeSync(fd);
    const outcomes = await transfer(join(directory, 'source'), join(directory, 'target'));
    assertMemory(outcomes);
    const { statistics } = outcomes[0].report;
    assert.ok((statistics['literalBytes'] ?? Number.NaN) < 20 * mebibyte, JSON.stringify(statistics));
    assert.ok(statSync(target).blocks <= statSync(source).blocks + 4096);
    const digests = await Promise.all(['source', 'target'].map((name) => engine.treeDigest(join(directory, name))));
    assert.is(digests[0]?.digest, digests[1]?.digest);
  }),
);

test.run();
