/** Containers that somebody else made, read with LXC's own tool, and what of them a service can keep. */
import { basename, dirname, isAbsolute } from 'node:path';
import { DeltahopError } from '../../errors.js';
import { runCommand } from '../command.js';
import type { ForeignWorkload } from '../driver.js';

const limitMs = 10_000;

/** What lxc-info is asked for; lxc.container.conf(5). */
const keys = [
  'lxc.rootfs.path',
  'lxc.idmap',
  'lxc.uts.name',
  'lxc.init.cmd',
  'lxc.environment',
  'lxc.mount.entry',
  'lxc.mount.fstab',
  'lxc.net.0.type',
  'lxc.net.0.link',
  'lxc.net.0.hwaddr',
  'lxc.net.0.ipv4.address',
  'lxc.net.0.ipv4.gateway',
  'lxc.net.1.type',
  'lxc.cgroup2.memory.max',
  'lxc.cgroup.memory.limit_in_bytes',
  'lxc.cgroup2.cpu.max',
] as const;

type Key = (typeof keys)[number];
type Answers = Readonly<Partial<Record<Key, readonly string[]>>>;

/** File systems of the kernel's, which every node has of its own. */
const ownOfEveryNode = /^\/(sys|proc|dev)(\/|$)/;

/**
 * Looks at a container that LXC knows.
 *
 * @param reference Its name below LXC's own path, or the absolute path of its directory.
 * @param given Settings and command that the caller knows better; what they leave open, the container's configuration says.
 * @throws DeltahopError DELTAHOP_E_NOT_FOUND, DELTAHOP_E_IN_USE if it runs, DELTAHOP_E_UNSUPPORTED naming what of it can
 *   not become a service's, DELTAHOP_E_INVALID_ARGUMENT naming what has to be said because the container does not.
 */
export async function foreignContainer(
  reference: string,
  given: { settings: Readonly<Record<string, string>>; command: readonly string[] },
): Promise<ForeignWorkload> {
  const name = basename(reference);
  const argv = ['lxc-info', '-n', name, ...(isAbsolute(reference) ? ['-P', dirname(reference)] : [])];
  const asked = await runCommand([...argv, '-s', ...keys.flatMap((key) => ['-c', key])], { limitMs });
  const state = /^State:\s+(\S+)/m.exec(asked.stdout)?.[1];
  if (state === undefined) {
    const why = asked.stderr.trim().split('\n')[0] ?? '';
    throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `there is no container ${reference} that LXC can read: ${why}`);
  }
  if (state !== 'STOPPED') {
    throw new DeltahopError('DELTAHOP_E_IN_USE', `container ${reference} is ${state.toLowerCase()}; stop it first`);
  }
  return describeContainer(reference, readAnswers(asked.stdout), given);
}

/** Reads `KEY = VALUE` of lxc-info, where further values of a key follow on lines of their own. */
export function readAnswers(text: string): Answers {
  const answers: Partial<Record<Key, string[]>> = {};
  let values: string[] | null = null;
  for (const line of text.split('\n')) {
    const [, key = '', first = ''] = /^(lxc\.\S+) =(.*)$/.exec(line) ?? [];
    if (key !== '') {
      values = [];
      answers[key as Key] = values;
    }
    const value = (key === '' ? line : first).trim();
    if (value !== '') values?.push(value);
  }
  return answers;
}

/** See {@link foreignContainer}. */
export function describeContainer(
  reference: string,
  answers: Answers,
  given: { settings: Readonly<Record<string, string>>; command: readonly string[] },
): ForeignWorkload {
  const one = (key: Key): string => answers[key]?.[0] ?? '';
  const refuse = (what: string): DeltahopError =>
    new DeltahopError('DELTAHOP_E_UNSUPPORTED', `container ${reference} can not be adopted: ${what}`);
  const path = one('lxc.rootfs.path');
  if (!isAbsolute(path)) throw refuse(`its root is ${path || 'nowhere'}, not a plain directory`);
  if (one('lxc.idmap') !== '') throw refuse('it maps user ids (lxc.idmap)');
  for (const entry of [...(answers['lxc.mount.entry'] ?? []), ...(answers['lxc.mount.fstab'] ?? [])]) {
    const [source = ''] = entry.split(/\s+/);
    if (source.startsWith('/') && !ownOfEveryNode.test(source)) {
      throw refuse(`it mounts ${source} of this machine, which can not go with it`);
    }
  }
  const command = given.command.length > 0 ? given.command : one('lxc.init.cmd').split(/\s+/).filter(Boolean);
  if (command.length === 0) {
    throw new DeltahopError(
      'DELTAHOP_E_INVALID_ARGUMENT',
      `container ${reference} begins with an init system; say behind -- which program the service runs`,
    );
  }
  const environment = answers['lxc.environment'] ?? [];
  return {
    path,
    settings: { ...limitsOf(one), ...networkOf(reference, one, given.settings, refuse), ...given.settings },
    command,
    notes: environment.map(
      (setting) => `${setting} is set there and not here; write \`env ${setting}\` into the command`,
    ),
  };
}

function networkOf(
  reference: string,
  one: (key: Key) => string,
  given: Readonly<Record<string, string>>,
  refuse: (what: string) => DeltahopError,
): Record<string, string> {
  const type = one('lxc.net.0.type');
  if (one('lxc.net.1.type') !== '') throw refuse('it has more than one network interface');
  if (type === '' || type === 'empty') return {};
  if (type !== 'veth') throw refuse(`its network is of type ${type}, and only a veth on a bridge can move`);
  const ip = given['ip'] ?? one('lxc.net.0.ipv4.address');
  if (ip === '') {
    throw new DeltahopError(
      'DELTAHOP_E_INVALID_ARGUMENT',
      `container ${reference} asks for its address when it starts; a service has one that stays: say --set ip=ADDRESS/PREFIX`,
    );
  }
  return withValues({
    ip,
    bridge: one('lxc.net.0.link'),
    mac: one('lxc.net.0.hwaddr'),
    gateway: one('lxc.net.0.ipv4.gateway'),
  });
}

function limitsOf(one: (key: Key) => string): Record<string, string> {
  const memory = one('lxc.cgroup2.memory.max') || one('lxc.cgroup.memory.limit_in_bytes');
  const [quota = 'max', period = '100000'] = one('lxc.cgroup2.cpu.max').split(/\s+/);
  return withValues({
    hostname: one('lxc.uts.name'),
    memory: memory === 'max' ? '' : memory,
    cpus: Number(quota) > 0 && Number(period) > 0 ? String(Number((Number(quota) / Number(period)).toFixed(3))) : '',
  });
}

function withValues(record: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(record).filter(([, value]) => value !== ''));
}
