/** A testbed on which a virtual machine with redis runs, and a client on one connection that counts what goes wrong. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as assert from 'uvu/assert';
import { type ServiceView, serviceViewSchema } from '../../../src/agent/messages.js';
import { Qmp } from '../../../src/workload/qemu/qmp.js';
import { run } from '../../testbed/command.js';
import { guestArguments, guestImages } from '../../testbed/guest.js';
import { defineGuest, startLibvirt } from '../../testbed/libvirt.js';
import type { TestbedNode } from '../../testbed/node.js';
import { mustRun } from '../../testbed/probe/probe-service.js';
import { Testbed } from '../../testbed/testbed.js';
import type { RedisClient } from '../../testbed/user.js';

const address = '10.77.0.10';
const fillMib = 4;

/** Two nodes with their agents; the machine runs on `a`. */
export class MachineBench {
  readonly service = 'machine';
  readonly testbed: Testbed;
  /** What `service add` said. */
  readonly added: string;
  client: RedisClient;

  private constructor(testbed: Testbed, added: string, client: RedisClient) {
    this.testbed = testbed;
    this.added = added;
    this.client = client;
  }

  static async create(driver: 'qemu' | 'libvirt' = 'qemu'): Promise<MachineBench> {
    const images = await guestImages();
    const testbed = await Testbed.create({ link: { rateBps: 200_000_000, delayMs: 5 } });
    try {
      const { a, b, user } = testbed;
      if (driver === 'libvirt') await Promise.all([startLibvirt(a), startLibvirt(b)]);
      await Promise.all([a.startAgent(), b.startAgent()]);
      await mustRun(a, ['layer', 'import', '--kind', 'base', '--name', 'debian', images.base]);
      const app = ['layer', 'import', '--kind', 'app', '--name', 'redis', '--parent', 'debian', images.appRedis];
      const described = ['--base', 'debian', '--app', 'redis', ...guestArguments(images, `${address}/24`)];
      const adopted = ['service', 'adopt', 'libvirt:machine', '--base', 'debian', '--set', `ip=${address}/24`];
      if (driver === 'libvirt') await defineGuest(a, 'machine', images, `${address}/24`);
      else await mustRun(a, app);
      const added = await mustRun(a, driver === 'libvirt' ? adopted : ['service', 'add', 'machine', ...described]);
      await mustRun(a, ['service', 'start', 'machine']);
      return new MachineBench(testbed, added, await user.startRedisClient({ host: address, fillMib }));
    } catch (error) {
      if (driver === 'qemu') process.stdout.write(await lastWords(testbed.a));
      await testbed.dispose();
      throw error;
    }
  }

  /** Counts for a moment, then judges: nothing lost, nothing doubled, still the one connection. Then a new client counts. */
  async assertClientWhole(): Promise<void> {
    await sleep(500);
    const { requests, lost, duplicated, reconnects } = await this.client.stop();
    assert.ok(requests > 0);
    assert.equal({ lost, duplicated, reconnects }, { lost: 0, duplicated: 0, reconnects: 0 });
    await this.connect();
  }

  /** Has a client count from now on. */
  async connect(): Promise<void> {
    this.client = await this.testbed.user.startRedisClient({ host: address });
  }

  /** Fulfilled once the machine answers to somebody new. */
  async untilItAnswers(): Promise<void> {
    const other = await this.testbed.user.startRedisClient({ host: address });
    await other.stop();
  }

  /** The service as a node sees it. */
  async inspect(node: TestbedNode): Promise<ServiceView> {
    return serviceViewSchema.parse(JSON.parse(await mustRun(node, ['service', 'inspect', this.service, '--json'])));
  }

  /** In two words. */
  async stateOn(node: TestbedNode): Promise<string> {
    const { ownership, state } = await this.inspect(node);
    return `${ownership} ${state}`;
  }

  /** What qemu-img finds on the machine's own disk. */
  async checkDisk(node: TestbedNode): Promise<void> {
    const disk = join(node.stateDirectory, 'services', this.service, 'workload/live/disk/instance.qcow2');
    const { stdout } = await run(['qemu-img', 'check', '--force-share', disk]);
    assert.match(stdout, /No errors were found/);
  }

  /** Numbers of all processes of QEMU's in the testbed. */
  machines(): number[] {
    return readdirSync('/proc')
      .filter((entry) => /^\d+$/.test(entry))
      .map(Number)
      .filter((pid) => {
        try {
          const [program = '', ...args] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
          return program.includes('qemu-system') && args.some((arg) => arg.includes(this.testbed.directory));
        } catch {
          return false;
        }
      });
  }
}

/** What a machine is doing that nobody can talk to, and what its kernel said last. Never rejects. */
async function lastWords(node: TestbedNode): Promise<string> {
  try {
    const monitor = await Qmp.connect(join(node.stateDirectory, 'services/machine/workload/machine/qmp'));
    const console = await monitor.execute('ringbuf-read', { device: 'console', size: 65_536 });
    const said = `the machine is ${await monitor.status()} and said:\n${String(console).slice(-4000)}\n`;
    monitor.close();
    return said;
  } catch (error) {
    return `the machine can not be asked: ${String(error)}\n`;
  }
}
