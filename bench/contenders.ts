/** The programs that are compared, and how each is run with each of its settings. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../test/testbed/command.js';
import type { Contender, Trial } from './rows.js';

/** Where bench/setup/install-rsync.sh puts rsync. */
export const rsyncProgram = '/opt/deltahop/rsync/bin/rsync';
/** dist/bench/contenders.js is two below. */
const project = fileURLToPath(new URL('../../', import.meta.url));
const deltahop = [process.execPath, join(project, 'dist/program/cli/main.js')];

/** Paths and addresses of one transfer. */
export interface Places {
  /** For the configuration, state and output of both ends. */
  statePath: string;
  /** The directory that is sent. */
  sourcePath: string;
  /** The directory that holds the target under the name `tree`. */
  modulePath: string;
  serverAddress: string;
  port: number;
}

/** One program with one setting. */
export interface Setting {
  contender: Contender;
  name: string;
  /** The sender is to know what the receiver holds: a trial is prepared by one such sync of the old tree. */
  remembers: boolean;
  /** The daemon's command line; it serves `modulePath` in the foreground. */
  server(places: Places): string[];
  /** The client's command line; it pushes the source to `tree`. */
  client(places: Places): string[];
  /** Beyond the ordinary environment. */
  environment(places: Places): Record<string, string>;
  /** What the client's output says of the program's own steps. */
  statistics(stdout: string): Trial['statistics'];
}

const noStatistics: Trial['statistics'] = { sender: {}, receiver: {} };

function rsyncSetting(name: string, options: string[], holes: boolean): Setting {
  return {
    contender: 'rsync',
    name,
    remembers: false,
    server: ({ statePath, modulePath, serverAddress, port }) => {
      const configPath = join(statePath, 'rsyncd.conf');
      const lines = [
        'use chroot = yes',
        'numeric ids = yes',
        'reverse lookup = no',
        `log file = ${statePath}/rsyncd.log`,
      ];
      lines.push('[module]', `path = ${modulePath}`, 'read only = no', 'uid = 0', 'gid = 0');
      writeFileSync(configPath, `${lines.join('\n')}\n`);
      return [
        rsyncProgram,
        '--daemon',
        '--no-detach',
        `--config=${configPath}`,
        `--address=${serverAddress}`,
        `--port=${port}`,
      ];
    },
    client: ({ sourcePath, serverAddress, port }) => {
      // The same fidelity and the same duties as deltahop's, nanoseconds included; holes only where there are any, since -S
      // costs rsync time.
      const all = ['-aHAX', '--numeric-ids', '--modify-window=-1', '--delete', ...(holes ? ['-S'] : []), ...options];
      return [rsyncProgram, ...all, `${sourcePath}/`, `rsync://${serverAddress}:${port}/module/tree/`];
    },
    environment: () => ({}),
    statistics: () => noStatistics,
  };
}

function deltahopSetting(name: string, options: string[]): Setting {
  return {
    contender: 'deltahop',
    name,
    remembers: options.includes('--remember'),
    server: ({ statePath, modulePath, serverAddress, port }) => {
      const where = ['--listen', `${serverAddress}:${port}`, '--module', `module=${modulePath}`];
      if (options.includes('--remember')) where.push('--remember', join(statePath, 'server'));
      return [...deltahop, 'serve', ...where, '--insecure', '--json'];
    },
    client: ({ sourcePath, serverAddress, port }) => {
      const all = ['--delete', '--insecure', '--json', ...options];
      return [...deltahop, 'sync', ...all, `${sourcePath}/`, `deltahop://${serverAddress}:${port}/module/tree/`];
    },
    environment: ({ statePath }) => ({ XDG_STATE_HOME: join(statePath, 'client') }),
    statistics: (stdout) => {
      const line = stdout
        .trimEnd()
        .split('\n')
        .findLast((text) => text.includes('"summary"'));
      if (line === undefined) return noStatistics;
      const { sender, receiver } = JSON.parse(line) as Trial['statistics'];
      return { sender, receiver };
    },
  };
}

/** rsync's settings; the best of them, for each measure, is the peer. */
export function rsyncSettings(holes: boolean): Setting[] {
  return [
    rsyncSetting('default', [], holes),
    rsyncSetting('-z', ['-z'], holes),
    rsyncSetting('-B 4096 -z --zc=zstd', ['-B', '4096', '-z', '--zc=zstd'], holes),
    rsyncSetting('--inplace', ['--inplace'], holes),
    rsyncSetting('--whole-file', ['--whole-file'], holes),
  ];
}

/** Our settings that this build has, and in `missing` why others are left out. */
export async function deltahopSettings(): Promise<{ settings: Setting[]; missing: string[] }> {
  const { stdout: help } = await run([...deltahop, 'sync', '--help']);
  const settings = [deltahopSetting('blind', [])];
  const missing: string[] = [];
  const wanted: [name: string, options: string[]][] = [
    ['blind --inplace', ['--inplace']],
    ['--remember', ['--remember']],
  ];
  for (const [name, options] of wanted) {
    if (options.every((option) => help.includes(option))) settings.push(deltahopSetting(name, options));
    else missing.push(`deltahop ${name}: this build has no ${options.join(' ')}`);
  }
  return { settings, missing };
}

/** What the report says of the contenders' versions. */
export async function versions(): Promise<string[]> {
  const rsync = (await run([rsyncProgram, '--version'])).stdout.split('\n')[0] ?? '';
  const ours = (await run([...deltahop, '--version'])).stdout.trim();
  const commit = (await run(['git', '-C', project, 'rev-parse', '--short', 'HEAD'], { check: false })).stdout.trim();
  return [rsync.replace(/\s+/g, ' ').trim(), `deltahop ${ours}${commit === '' ? '' : ` (${commit})`}`];
}
