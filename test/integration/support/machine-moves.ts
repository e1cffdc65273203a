/** The main job for a virtual machine, whatever runs it: it moves from a to b and back, and its client loses nothing. */
import type { Test } from 'uvu';
import * as assert from 'uvu/assert';
import { type DryRunView, dryRunSchema } from '../../../src/agent/messages.js';
import { mustRun } from '../../testbed/probe/probe-service.js';
import { type Hop, hop, whenPhaseStarts } from './hop.js';
import { leftovers } from './leftovers.js';
import type { MachineBench } from './machine-bench.js';

/** What of it is the hypervisor's. */
export interface ExpectedMoves {
  /** What a dry run has to have looked at. */
  findings: readonly string[];
  /** The layers that have to be sent first. */
  missingLayers: readonly string[];
  /** The first round takes less: what of its memory is in its disks, or was booted, is at b. */
  firstRoundBytes: number;
  /** What goes over while it stands still is less. */
  finalBytes: number;
  /** What else is so once it has moved to b. */
  moved(): Promise<void>;
  /** What else is gone once it was removed. */
  removed(): Promise<void>;
}

/** Adds the tests to a file's; the last one disposes of the testbed. */
export function checkMoves(
  check: Test['skip'],
  machine: () => MachineBench,
  { findings, missingLayers, firstRoundBytes, finalBytes, moved, removed }: ExpectedMoves,
): void {
  let there: Hop;

  check('a dry run looks at what virtual machines need', async () => {
    const { a, b } = machine().testbed;
    const { stdout } = await a.cli(['migrate', machine().service, b.agentAddress, '--dry-run', '--json']);
    const foreseen: DryRunView = dryRunSchema.parse(JSON.parse(stdout));
    assert.ok(foreseen.possible, stdout);
    const names = new Set(foreseen.findings.map(({ name }) => name));
    for (const name of findings) assert.ok(names.has(name), `${name} was not looked at`);
    assert.equal(
      foreseen.missingLayers.map(({ name }) => name),
      missingLayers,
    );
  });

  check('a running machine moves, and its client loses nothing', async () => {
    const { a, b } = machine().testbed;
    there = await hop(a, machine().service, b.agentAddress);
    assert.is(there.summary.error, undefined, there.stderr);
    assert.is(there.summary.result, 'moved');
    await machine().assertClientWhole();
    assert.equal([await machine().stateOn(a), await machine().stateOn(b)], ['departed stopped', 'owned running']);
    await moved();
  });

  check('memory that is in its disks is not sent', async () => {
    const first = there.events.find((event) => event.type === 'round');
    assert.ok(first?.type === 'round' && first.bytesSent < firstRoundBytes, JSON.stringify(first));
  });

  check('what goes over while it stands still is little', async () => {
    const final = there.summary.phases.find(({ name }) => name === 'final');
    assert.ok(final !== undefined && final.bytesSent < finalBytes, `${final?.bytesSent} bytes`);
  });

  check('a cancelled migration lets it run on', async () => {
    const { a, b } = machine().testbed;
    const cancelled = await hop(
      b,
      machine().service,
      a.agentAddress,
      whenPhaseStarts('final', (interrupt) => interrupt()),
    );
    if (cancelled.summary.result === 'failed') {
      assert.is(cancelled.summary.error?.code, 'DELTAHOP_E_CANCELLED');
      assert.is(await machine().stateOn(b), 'owned running');
    }
    await machine().assertClientWhole();
    if (cancelled.summary.result === 'moved') await hop(a, machine().service, b.agentAddress);
  });

  check('it moves back for a fraction of the bytes', async () => {
    const { a, b } = machine().testbed;
    const back = await hop(b, machine().service, a.agentAddress);
    assert.is(back.summary.error, undefined, back.stderr);
    assert.ok(back.summary.bytesSent < there.summary.bytesSent / 10, `${back.summary.bytesSent} bytes`);
    await machine().assertClientWhole();
    assert.equal([await machine().stateOn(a), await machine().stateOn(b)], ['owned running', 'departed stopped']);
  });

  check('its disks are sound at both ends', async () => {
    await machine().checkDisk(machine().testbed.a);
    await machine().checkDisk(machine().testbed.b);
  });

  check('it is switched off by its power button, and starts again with what is on its disk', async () => {
    const { a } = machine().testbed;
    await machine().client.stop();
    await mustRun(a, ['service', 'stop', machine().service]);
    assert.is(await machine().stateOn(a), 'owned stopped');
    await machine().checkDisk(a);
    await mustRun(a, ['service', 'start', machine().service]);
    // Judged by its answers alone: one that has just booted is too slow for a client's deadlines where there is no KVM.
    await machine().untilItAnswers();
  });

  check('it is removed, and nothing of it is left', async () => {
    const { a, b } = machine().testbed;
    await mustRun(a, ['service', 'stop', machine().service]);
    await mustRun(a, ['service', 'rm', machine().service]);
    await mustRun(b, ['service', 'rm', machine().service]);
    await removed();
    await machine().testbed.dispose();
    assert.equal(leftovers(machine().testbed), []);
  });
}
