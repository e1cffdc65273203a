/** What nodes have more than a service that runs on one of them and two agents at rest. */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { list, read, target } from '../support/volatile-files.js';
import type { TestbedNode } from '../testbed/node.js';
import type { Testbed } from '../testbed/testbed.js';
import type { FaultedDriver } from './matrix.js';

/** What nodes have beyond `owner`'s one copy of the service and their agents. */
export function residue(testbed: Testbed, owner: TestbedNode, service: string, driver: FaultedDriver): string[] {
  const found: string[] = [];
  for (const node of testbed.nodes) {
    const copies = node === owner ? 1 : 0;
    const { agents, others, machines } = processesOf(node, service);
    if (agents.length !== 1) found.push(`${node.name} has ${agents.length} agents`);
    for (const what of others) found.push(`${node.name} has process ${what}`);
    found.push(
      ...(driver === 'lxc'
        ? residueOfContainer(node, service, agents[0], copies)
        : residueOfMachine(node, service, agents[0], copies, machines)),
    );
    const operation = join(workloadOf(node, service), 'operation');
    for (const path of [operation, `${operation}.old`]) if (exists(path)) found.push(path);
  }
  return found;
}

function residueOfContainer(
  node: TestbedNode,
  service: string,
  agent: number | undefined,
  containers: number,
): string[] {
  const found: string[] = [];
  const overlays = agent === undefined ? [] : overlaysIn(agent, node);
  if (overlays.length !== containers) found.push(`${node.name} has mounts ${overlays.join(', ') || 'none'}`);
  for (const kind of ['payload', 'monitor'] as const) {
    const cgroups = cgroupsOf(node, service, kind);
    if (cgroups.length !== containers) found.push(`${node.name} has cgroups ${cgroups.join(', ') || `no ${kind}`}`);
  }
  return found;
}

function residueOfMachine(
  node: TestbedNode,
  service: string,
  agent: number | undefined,
  copies: number,
  machines: number,
): string[] {
  const found: string[] = [];
  if (machines !== copies) found.push(`${node.name} has ${machines} machines`);
  const interfaces = read(`/proc/${agent}/net/dev`).match(/\bdh[0-9a-f]{12}:/g) ?? [];
  if (interfaces.length !== copies) found.push(`${node.name} has interfaces ${interfaces.join(' ') || 'none'}`);
  // Each is as large as the machine's memory.
  for (const copy of copies === 1 ? [] : ['last-round', 'round-before']) {
    if (exists(join(workloadOf(node, service), copy))) found.push(`${node.name} has ${copy}`);
  }
  return found;
}

/** Files that only something unfinished leaves. */
export function unfinishedFiles(testbed: Testbed): string[] {
  const found: string[] = [];
  for (const node of testbed.nodes) {
    for (const entry of readdirSync(node.stateDirectory, { recursive: true, encoding: 'latin1' })) {
      // Beneath merged/ are the service's own files once more, beneath layers/…/content those of its author.
      if (/\/workload\/(merged|upper)\/|\/content\//.test(entry)) continue;
      if (/\.tmp$|\.new$|\.deltahop-partial|\/\.(arriving|import)-[^/]*$|\/operation(\.old)?$/.test(entry)) {
        found.push(`${node.name}: ${entry}`);
      }
    }
  }
  return found;
}

function workloadOf(node: TestbedNode, service: string): string {
  return join(node.stateDirectory, 'services', service, 'workload');
}

/** What of a node there is: in its network namespace, or called with its paths. */
interface NodeProcesses {
  agents: number[];
  /** How many virtual machines. */
  machines: number;
  /** Everything else but a spare worker, in words. */
  others: string[];
}

function processesOf(node: TestbedNode, service: string): NodeProcesses {
  const netns = statSync(`/run/netns/${node.netns}`).ino;
  const agents: number[] = [];
  const others: string[] = [];
  let spares = 0;
  let monitors = 0;
  let machines = 0;
  for (const pid of list('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)) {
    const line = read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim();
    // A dead one that its parent has yet to bury, or one of the kernel's.
    if (line === '') continue;
    const isInNode = target(`/proc/${pid}/ns/net`) === `net:[${netns}]`;
    if (!isInNode && !line.includes(node.stateDirectory)) continue;
    // A restored container's monitor was lxc-checkpoint; the link and the mount namespace's holder are the testbed's.
    if (line.includes(`agent --state ${node.stateDirectory} `)) agents.push(Number(pid));
    else if (line.includes('/worker.js')) spares++;
    else if (line.startsWith('qemu-system-')) machines++;
    else if (line.startsWith('[lxc monitor]') || / -r -n .*lxc-checkpoint|lxc-checkpoint -r /.test(line)) monitors++;
    else if (line !== 'cat' && !line.includes('/link --netns-a ')) others.push(`${pid} ${line.slice(0, 120)}`);
  }
  if (spares > 1) others.push(`${spares} transfer workers`);
  if (monitors > 1 || (monitors === 1 && cgroupsOf(node, service, 'payload').length === 0)) {
    others.push(`${monitors} monitors`);
  }
  return { agents, machines, others };
}

function overlaysIn(agent: number, node: TestbedNode): string[] {
  const lines = read(`/proc/${agent}/mountinfo`).split('\n');
  return lines
    .filter((line) => line.includes(' - overlay ') && line.includes(`${node.stateDirectory}/`))
    .map((line) => line.split(' ')[4] ?? '');
}

/** Cgroups of the service's container of a node: their names have a digest of its directory, which LXC's path tells. */
function cgroupsOf(node: TestbedNode, service: string, kind: 'payload' | 'monitor'): string[] {
  const ids = list(join(workloadOf(node, service), 'lxc'));
  const root = '/sys/fs/cgroup/freezer';
  const flat = list(root).length > 0 ? root : '/sys/fs/cgroup';
  return list(flat).filter((name) => ids.some((id) => name.startsWith(`lxc.${kind}.${id}`)));
}

function exists(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}
