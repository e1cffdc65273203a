/** What this machine can do for deltahop, and what to install: the answer of `deltahop doctor`, without an agent. */
import { access, constants, open, readFile } from 'node:fs/promises';
import { loadEngine } from '../engine/engine.js';
import { DeltahopError } from '../errors.js';
import type { Capability } from '../workload/driver.js';
import { createDrivers } from './daemon.js';

const oldestNode = [20, 17] as const;
/** Bit of CAP_SYS_ADMIN, CAP_NET_ADMIN in a capability set (linux/capability.h). */
const sysAdminBit = 21n;
const netAdminBit = 12n;

/** What was found, by what needs it. */
export interface Examination {
  /** `deltahop`: needed for everything. The name of a driver: for services of it. `testbed`: for tests and the demo alone. */
  group: string;
  capabilities: readonly Capability[];
}

/** Looks at this machine. Never rejects: what cannot be looked at is a finding too. */
export async function examine(): Promise<Examination[]> {
  const examinations: Examination[] = [
    { group: 'deltahop', capabilities: [nodeVersion(), engineLoads(), await privileges()] },
  ];
  for (const driver of createDrivers()) {
    examinations.push({ group: driver.name, capabilities: await driverCapabilities(driver) });
  }
  examinations.push({ group: 'testbed', capabilities: [await tunDevice(), await networkNamespaces()] });
  return examinations;
}

function nodeVersion(): Capability {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const ok = major > oldestNode[0] || (major === oldestNode[0] && minor >= oldestNode[1]);
  const remedy = ok ? null : `install Node.js ${oldestNode.join('.')} or later`;
  return { name: 'node', ok, detail: process.versions.node, remedy };
}

function engineLoads(): Capability {
  try {
    const engine = loadEngine();
    // Loading is not working: the digest of nothing is one of BLAKE3's official test vectors.
    const digest = engine.digest(new Uint8Array());
    const ok = digest === 'blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262';
    if (ok) return { name: 'engine', ok, detail: engine.name, remedy: null };
    throw new DeltahopError('DELTAHOP_E_NATIVE_UNAVAILABLE', `the ${engine.name} engine computes wrong digests`);
  } catch (error) {
    return failed('engine', error, new DeltahopError('DELTAHOP_E_NATIVE_UNAVAILABLE', '').remedy);
  }
}

async function privileges(): Promise<Capability> {
  try {
    const status = await readFile('/proc/self/status', 'utf8');
    const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
    const lacking = [
      ['CAP_SYS_ADMIN', sysAdminBit],
      ['CAP_NET_ADMIN', netAdminBit],
    ].filter(([, bit]) => ((effective >> (bit as bigint)) & 1n) === 0n);
    const ok = lacking.length === 0;
    return {
      name: 'privileges',
      ok,
      detail: ok
        ? `user ${process.getuid?.()}, may mount and configure networks`
        : `lacks ${lacking.map(([name]) => name).join(', ')}`,
      remedy: ok ? null : 'run the agent as root: mounting, namespaces and checkpoints need it',
    };
  } catch (error) {
    return failed('privileges', error, 'mount /proc');
  }
}

async function driverCapabilities(driver: {
  name: string;
  capabilities(): Promise<readonly Capability[]>;
}): Promise<readonly Capability[]> {
  try {
    return await driver.capabilities();
  } catch (error) {
    return [failed(driver.name, error, 'see the message')];
  }
}

async function tunDevice(): Promise<Capability> {
  try {
    const device = await open('/dev/net/tun', 'r+');
    await device.close();
    return { name: 'tun', ok: true, detail: '/dev/net/tun opens', remedy: null };
  } catch (error) {
    return failed('tun', error, 'modprobe tun, or give this container /dev/net/tun; only the testbed’s link needs it');
  }
}

async function networkNamespaces(): Promise<Capability> {
  try {
    await access('/proc/self/ns/net', constants.R_OK);
    const max = Number(await readFile('/proc/sys/user/max_net_namespaces', 'utf8'));
    const ok = max > 0;
    const remedy = ok ? null : 'raise user.max_net_namespaces by sysctl';
    return { name: 'network namespaces', ok, detail: ok ? `up to ${max}` : 'switched off', remedy };
  } catch (error) {
    return failed('network namespaces', error, 'use a kernel with CONFIG_NET_NS');
  }
}

function failed(name: string, error: unknown, remedy: string): Capability {
  return { name, ok: false, detail: error instanceof Error ? error.message : String(error), remedy };
}
