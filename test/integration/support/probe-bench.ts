/** A testbed on which a probe runs and is watched: what most tests of migrations begin with and judge by. */
import * as assert from 'uvu/assert';
import type { ServiceView } from '../../../src/agent/messages.js';
import type { TestbedNode } from '../../testbed/node.js';
import {
  mustRun,
  type ProbeClient,
  ProbeService,
  type ProbeSizes,
  type ProbeState,
  probeUnavailable,
} from '../../testbed/probe/probe-service.js';
import { Testbed, type TestbedOptions } from '../../testbed/testbed.js';
import { leftovers } from './leftovers.js';

/** Why there can be no bench here; null if there can. */
export function benchUnavailable(): string | null {
  return Testbed.unavailable() ?? probeUnavailable();
}

/** A small probe: enough to see what goes wrong, little enough to move in a second. */
export const smallProbe: ProbeSizes = { baseMib: 2, appMib: 1, memoryMib: 4, changes: 1 };

/** How a bench is made. */
export interface BenchOptions extends TestbedOptions {
  /** What the probe runs in; a container unless told. */
  driver?: 'lxc' | 'qemu';
  sizes?: Partial<ProbeSizes>;
  /** More options of `deltahop service add`. */
  serviceOptions?: readonly string[];
  /** What is done before the agents start. */
  prepare?: (testbed: Testbed) => Promise<void>;
}

/** A testbed of two nodes with their agents, a probe that runs on `a`, and its user. */
export class ProbeBench {
  readonly testbed: Testbed;
  readonly service: ProbeService;
  readonly client: ProbeClient;

  private constructor(testbed: Testbed, service: ProbeService, client: ProbeClient) {
    this.testbed = testbed;
    this.service = service;
    this.client = client;
  }

  static async create(options: BenchOptions = {}): Promise<ProbeBench> {
    const { driver = 'lxc', sizes, serviceOptions = [], prepare } = options;
    const testbed = await Testbed.create(options);
    try {
      await prepare?.(testbed);
      await Promise.all([testbed.a.startAgent(), testbed.b.startAgent()]);
      const size = { ...smallProbe, ...sizes };
      const service = await (driver === 'lxc'
        ? ProbeService.start(testbed, testbed.a, size, serviceOptions)
        : ProbeService.startMachine(testbed, testbed.a, size));
      const client = await service.watch(testbed);
      return new ProbeBench(testbed, service, client);
    } catch (error) {
      await testbed.dispose();
      throw error;
    }
  }

  /** The service as a node sees it. */
  async inspect(node: TestbedNode): Promise<ServiceView> {
    return JSON.parse(await mustRun(node, ['service', 'inspect', this.service.name, '--json'])) as ServiceView;
  }

  /**
   * Asserts that the service lives on where `earlier` was taken: the same life, nothing lost, nothing standing still.
   * @returns Its state now.
   */
  async assertGoesOnFrom(earlier: ProbeState): Promise<ProbeState> {
    const first = await this.client.state();
    await new Promise((resolve) => setTimeout(resolve, 200));
    const now = await this.client.state();
    assert.is(now.life, earlier.life, 'it was started anew');
    for (const counter of ['ticks', 'memoryChanges', 'pipeMessages', 'logLines', 'deletedCount'] as const) {
      assert.ok(first[counter] >= earlier[counter], `${counter} fell from ${earlier[counter]} to ${first[counter]}`);
      assert.ok(now[counter] > first[counter], `${counter} stands still at ${now[counter]}`);
    }
    const checks = await this.client.verify();
    const broken = Object.entries({ ...checks, ...checks.root }).filter(([, good]) => good === false);
    assert.equal(broken, [], 'what the probe finds broken');
    return now;
  }

  /** Asserts that the user's one connection is alive and has lost or doubled nothing. @returns Its longest gap in ms. */
  async assertConnectionWhole(): Promise<number> {
    const before = await this.client.report();
    const { sent, longestGapMs } = before;
    // Against a service that stands still, the user's TCP waits twice as long with each try: so what is under way comes
    // in as late after the service goes on as it has stood still at the most.
    let report = before;
    for (const deadline = Date.now() + 5000 + longestGapMs; report.answered < sent && Date.now() < deadline; ) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      report = await this.client.report();
    }
    assert.ok(report.connected, 'the connection is lost');
    assert.is(report.outOfOrder, 0, 'answers lost, doubled or out of order');
    assert.ok(report.answered >= sent, `${sent - report.answered} numbers were not answered`);
    return Math.max(longestGapMs, report.longestGapMs);
  }

  /** Asserts that the service is `a`'s and runs there, as though nothing had been tried. */
  async assertUnharmedAtSource(earlier: ProbeState): Promise<void> {
    const { ownership, state } = await this.inspect(this.testbed.a);
    assert.equal({ ownership, state }, { ownership: 'owned', state: 'running' });
    await this.assertConnectionWhole();
    await this.assertGoesOnFrom(earlier);
  }

  /** Takes everything away and asserts that nothing of it is left. */
  async assertLeavesNothing(): Promise<void> {
    this.client.end();
    await this.testbed.dispose();
    assert.equal(leftovers(this.testbed), []);
  }
}
