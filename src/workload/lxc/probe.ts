/** Whether what runs in a container is well, asked from within it. */
import { isDeltahopError } from '../../errors.js';
import { runCommand } from '../command.js';

const limitMs = 5_000;

/** Node itself asks, since a container need not have a program that can. Its arguments: kind, host, port, path. */
const asker = `const [kind, host, port, path] = process.argv.slice(1);
const end = (why) => { console.log(why); process.exit(why === '' ? 0 : 1); };
if (kind === 'tcp') {
  const socket = require('node:net').connect({ host, port: Number(port) });
  socket.once('connect', () => end(''));
  socket.once('error', (error) => end(error.message));
} else {
  const request = require('node:http').get({ host, port: Number(port), path }, (response) => {
    end(response.statusCode < 400 ? '' : 'status ' + response.statusCode);
  });
  request.once('error', (error) => end(error.message));
}`;

/**
 * Runs a probe (see migrate/ownership.ts for its forms) in the container of which `pid` is a process.
 *
 * @param address where it is asked by TCP and HTTP: its own address, else loopback.
 * @returns null if it is well, else why not.
 */
export async function probeContainer(pid: number, probe: string, address: string): Promise<string | null> {
  const [, kind = '', rest = ''] = /^(tcp|http|exec):(.*)$/s.exec(probe) ?? [];
  const [, port = '', path = '/'] = /^(\d+)(\/.*)?$/.exec(rest) ?? [];
  const inside =
    kind === 'exec'
      ? ['--mount', '--uts', '--ipc', '--net', '--pid', '--', '/bin/sh', '-c', rest]
      : ['--net', '--', process.execPath, '-e', asker, kind, address, port, path];
  try {
    const { exitCode, stdout, stderr } = await runCommand(['nsenter', `--target=${pid}`, ...inside], { limitMs });
    if (exitCode === 0) return null;
    const said = (kind === 'exec' ? stderr : stdout).trim().split('\n').at(-1) ?? '';
    return said === '' ? `exit code ${exitCode}` : said.slice(0, 300);
  } catch (error) {
    if (isDeltahopError(error, 'DELTAHOP_E_TIMEOUT')) return `no answer in ${limitMs} ms`;
    throw error;
  }
}
