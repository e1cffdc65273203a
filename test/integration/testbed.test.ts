import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { testUnless } from '../support/obstacle.js';
import { run } from '../testbed/command.js';
import { processStartTime } from '../testbed/remnants.js';
import { Testbed } from '../testbed/testbed.js';

// This file runs in four roles: the test itself, the two ends of a connection inside nodes, and a run that gets killed.
const self = fileURLToPath(import.meta.url);
const [role, ...roleArgs] = process.argv.slice(2);

/** Answers every byte with itself on port 7000, and throws away what comes to port 7001, telling the number at its end. */
function serve(): void {
  createServer((socket) => socket.setNoDelay(true).pipe(socket)).listen(7000);
  createServer({ allowHalfOpen: true }, (socket) => {
    let bytes = 0;
    socket.on('data', (chunk) => {
      bytes += chunk.length;
    });
    socket.on('end', () => socket.end(`${bytes}`));
  }).listen(7001, () => process.stdout.write('listening\n'));
}

async function connected(host: string, port: number): Promise<Socket> {
  const socket = connect({ host, port, noDelay: true, allowHalfOpen: true });
  await once(socket, 'connect');
  return socket;
}

/** Prints the round trips of `count` bytes, ms each. */
async function measureRoundTrips(host: string, count: number): Promise<void> {
  const socket = await connected(host, 7000);
  const tripsMs: number[] = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    socket.write('x');
    await once(socket, 'data');
    tripsMs.push(performance.now() - start);
  }
  socket.destroy();
  process.stdout.write(JSON.stringify(tripsMs));
}

/** Prints how long it took until `bytes` were there, ms. */
async function measureRate(host: string, bytes: number): Promise<void> {
  const socket = await connected(host, 7001);
  const start = performance.now();
  socket.end(Buffer.alloc(bytes, 'x'));
  const [answer] = (await once(socket, 'data')) as [Buffer];
  if (answer.toString() !== `${bytes}`) throw new Error(`${answer.toString()} of ${bytes} bytes arrived`);
  process.stdout.write(JSON.stringify(performance.now() - start));
  socket.destroy();
}

async function mainTest(): Promise<void> {
  const obstacle = Testbed.unavailable();
  const test = suite<{ testbed: Testbed }>('testbed');
  const check = testUnless(test, obstacle);

  test.before(async (context) => {
    if (obstacle !== null) return;
    context.testbed = await Testbed.create();
    const server = context.testbed.b.spawn([process.execPath, self, 'serve'], { stdio: ['ignore', 'pipe', 'inherit'] });
    if (server.stdout) await once(createInterface({ input: server.stdout }), 'line');
  });
  test.after(async (context) => {
    await context.testbed?.dispose();
  });

  check('a round trip takes the link twice its delay', async ({ testbed }) => {
    const median = async () => {
      const argv = [process.execPath, self, 'round-trips', testbed.b.address, '21'];
      const trips = JSON.parse((await testbed.a.exec(argv)).stdout) as number[];
      return trips.sort((a, b) => a - b)[10] ?? 0;
    };
    const usual = await median();
    assert.ok(usual >= 20 && usual < 32, `20 ms wanted, ${usual} found`);
    await testbed.link.set({ delayMs: 50 });
    const slow = await median();
    assert.ok(slow >= 100 && slow < 115, `100 ms wanted, ${slow} found`);
    await testbed.link.set({ delayMs: 10 });
  });

  check('the rate holds, and the link counts what it carried', async ({ testbed }) => {
    const mbps = async (bytes: number) => {
      const argv = [process.execPath, self, 'rate', testbed.b.address, `${bytes}`];
      const tookMs = JSON.parse((await testbed.a.exec(argv)).stdout) as number;
      return (bytes * 8) / 1000 / tookMs;
    };
    const before = await testbed.link.stats();
    const usual = await mbps(10_000_000);
    // Headers and TCP's slow start take a part; more than the wire has is impossible.
    assert.ok(usual > 35 && usual < 50, `near 50 Mbit/s wanted, ${usual} found`);
    const after = await testbed.link.stats();
    const carried = after.aToB.carriedBytes - before.aToB.carriedBytes;
    assert.ok(carried > 10_000_000 && carried < 10_600_000, `${carried} bytes carried`);
    assert.ok(after.bToA.carriedBytes - before.bToA.carriedBytes < carried / 10);
    await testbed.link.set({ rateBps: 10_000_000 });
    const slow = await mbps(3_000_000);
    assert.ok(slow > 7 && slow < 10, `near 10 Mbit/s wanted, ${slow} found`);
    await testbed.link.set({ rateBps: 50_000_000 });
  });

  check('a connection survives a cut, and nothing passes while it lasts', async ({ testbed }) => {
    const argv = [process.execPath, self, 'round-trips', testbed.b.address, '40'];
    const before = await testbed.link.stats();
    const trips = testbed.a.exec(argv);
    // Some trips of 100 bytes: a process takes its time to start, and earlier connections have last words.
    while ((await testbed.link.stats()).aToB.carriedBytes < before.aToB.carriedBytes + 1000) await sleep(10);
    await testbed.link.cut();
    const atCut = await testbed.link.stats();
    await sleep(600);
    const during = await testbed.link.stats();
    assert.is(during.cut, true);
    assert.is(during.aToB.carriedBytes, atCut.aToB.carriedBytes);
    assert.ok(during.aToB.droppedCut > 0);
    await testbed.link.mend();
    const longest = Math.max(...(JSON.parse((await trips).stdout) as number[]));
    assert.ok(longest > 600, `a trip of more than 600 ms wanted, ${longest} found`);
  });

  check('packets are lost as often as told', async ({ testbed }) => {
    await testbed.link.set({ lossPercent: 2 });
    const before = await testbed.link.stats();
    await testbed.a.exec([process.execPath, self, 'rate', testbed.b.address, '3000000']);
    const after = await testbed.link.stats();
    await testbed.link.set({ lossPercent: 0 });
    const percent =
      ((after.aToB.droppedLost - before.aToB.droppedLost) * 100) /
      (after.aToB.offeredPackets - before.aToB.offeredPackets);
    assert.ok(percent > 0.8 && percent < 3.5, `2 % wanted, ${percent} found`);
  });

  check('the user reaches nodes over the service network only', async ({ testbed }) => {
    const reach = (host: string) =>
      testbed.user.runInUser([process.execPath, self, 'round-trips', host, '3'], { check: false });
    assert.is((await reach(testbed.b.serviceAddress)).code, 0);
    assert.is.not((await reach(testbed.b.address)).code, 0);
  });

  check('every command of a node sees the same mounts', async ({ testbed }) => {
    const mountPoint = `${testbed.a.directory}/seen`;
    await testbed.a.exec(['mkdir', mountPoint]);
    await testbed.a.exec(['mount', '-t', 'tmpfs', 'tmpfs', mountPoint]);
    await testbed.a.exec(['touch', `${mountPoint}/file`]);
    await testbed.a.exec(['test', '-f', `${mountPoint}/file`]);
    assert.is.not((await testbed.b.exec(['test', '-f', `${mountPoint}/file`], { check: false })).code, 0);
    assert.is(existsSync(`${mountPoint}/file`), false);
    const devices = (await testbed.a.exec(['ls', '/sys/class/net'])).stdout.trim().split('\n').sort();
    assert.equal(devices, ['br0', 'lo', 'to-b', 'uplink']);
  });

  check('dispose leaves nothing', async () => {
    const testbed = await Testbed.create();
    const sleeper = testbed.a.spawn(['setsid', 'sleep', '1000'], { stdio: 'ignore' });
    await testbed.b.exec(['mount', '-t', 'tmpfs', 'tmpfs', testbed.b.directory]);
    await testbed.dispose();
    await nothingLeft(testbed.id, testbed.directory, [sleeper.pid ?? 0]);
  });

  check('the next run clears what a killed one left', async () => {
    const child = spawn(process.execPath, [self, 'get-killed'], { stdio: ['ignore', 'pipe', 'inherit'] });
    const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
    const { id, directory, pid } = JSON.parse(line) as { id: string; directory: string; pid: number };
    try {
      await Testbed.clearStale();
      assert.ok(existsSync(directory), 'a testbed whose owner lives is left alone');
      assert.is.not(processStartTime(pid), undefined);
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    assert.ok(existsSync(directory), 'the killed run has left something');
    await Testbed.clearStale();
    await nothingLeft(id, directory, [pid]);
  });

  test.run();
}

/** Checks that a testbed is gone without a trace. */
async function nothingLeft(id: string, directory: string, pids: number[]): Promise<void> {
  assert.not.match((await run(['ip', 'netns', 'list'])).stdout, id);
  assert.not.match(readFileSync('/proc/self/mountinfo', 'utf8'), id);
  assert.is(existsSync(directory), false);
  assert.is(existsSync(`/run/deltahop-testbed/${id}.json`), false);
  for (const pid of pids) assert.is(processStartTime(pid), undefined, `process ${pid} is still there`);
  assert.not.match((await run(['ps', '-eo', 'args'])).stdout, id);
}

/** Makes a testbed with a process in it that outlives this one, says so, and waits to be killed. */
async function getKilled(): Promise<void> {
  const testbed = await Testbed.create();
  // Not by setsid: the leader of a group, which `detached` makes it, would fork there, and its pid would soon be nobody's.
  const orphan = testbed.b.spawn(['sleep', '1000'], { stdio: 'ignore', detached: true });
  process.stdout.write(`${JSON.stringify({ id: testbed.id, directory: testbed.directory, pid: orphan.pid })}\n`);
  await sleep(60_000);
}

const [host = '', number = '0'] = roleArgs;
if (role === 'serve') serve();
else if (role === 'round-trips') await measureRoundTrips(host, Number(number));
else if (role === 'rate') await measureRate(host, Number(number));
else if (role === 'get-killed') await getKilled();
else await mainTest();
