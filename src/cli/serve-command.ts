/** `deltahop serve`: directories for `deltahop sync`, over TCP. */
import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { formatAddress, parseAddress, permittedAddress } from '../agent/peers.js';
import { DeltahopError } from '../errors.js';
import type { ServeEvent } from '../transfer/serve.js';
import { isModuleName, type SyncModule } from '../transfer/worker-messages.js';
import { jsonLine, printable } from './render.js';
import type { Surroundings } from './surroundings.js';

interface ServeFlags {
  listen: string;
  module: Record<string, string>;
  readOnly?: boolean;
  insecure?: boolean;
  maxConnections?: number;
  remember?: string;
}

/** Adds `serve` to the program. */
export function addServeCommand(program: Command, around: Surroundings): void {
  program
    .command('serve')
    .description('Offer directories to `deltahop sync` over TCP, in the foreground, until SIGINT or SIGTERM.')
    .requiredOption('--listen <host:port>', 'where clients reach it; port 0 takes a free one')
    .requiredOption('--module <name=dir>', 'a directory and its name; may be given several times', collectModule)
    .option('--read-only', 'clients may fetch and not write')
    .option('--insecure', 'listen beyond this machine, though connections are neither encrypted nor authenticated')
    .option('--max-connections <n>', 'clients at once; further ones are told to come later (default: 8)', readCount)
    .option(
      '--remember <dir>',
      'keep there what clients ask for with --remember; for a tree that they fetch, a copy of it',
    )
    .addHelpText(
      'after',
      `
A client sees what is beneath a module's directory and nothing else: no path of it leads through a symbolic link or out of
the directory. Whoever can connect may do all that the module allows, with the rights of this process.

Examples:
  deltahop serve --listen 127.0.0.1:7410 --module srv=/srv --read-only
  deltahop serve --listen 10.0.0.1:7410 --module backup=/var/backups --insecure`,
    )
    .action(async (flags: ServeFlags, command: Command) => {
      const address = await permittedAddress(parseAddress(flags.listen), flags.insecure === true);
      const modules = await Promise.all(
        Object.entries(flags.module).map(async ([name, directory]): Promise<SyncModule> => {
          const path = resolve(directory);
          const status = await stat(path).catch(() => null);
          if (!status?.isDirectory()) {
            throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `module ${name}: there is no directory ${path}`);
          }
          return { name, path, readOnly: flags.readOnly === true };
        }),
      );
      const { SyncServer } = await import('../transfer/serve.js');
      const log = await around.log();
      let stop: () => void = () => {};
      const stopped = new Promise<void>((resolveStopped) => {
        stop = resolveStopped;
      });
      const off = around.onInterrupt(() => stop());
      try {
        const server = await SyncServer.start({
          ...address,
          modules,
          ...(flags.maxConnections === undefined ? {} : { maxConnections: flags.maxConnections }),
          ...(flags.remember === undefined ? {} : { memoryPath: resolve(flags.remember) }),
          onEvent: ({ type, ...fields }: ServeEvent) => log.info(withPlainError(fields), `connection ${type}`),
        });
        if (flags.insecure === true) log.warn('connections are neither encrypted nor authenticated (--insecure)');
        const listen = formatAddress({ host: address.host, port: server.port });
        const names = modules.map(({ name }) => name);
        around.stdout.write(
          command.optsWithGlobals<{ json?: boolean }>().json === true
            ? jsonLine({ type: 'serve', listen, modules: names })
            : `serving ${printable(names.join(', '))} on ${listen}\n`,
        );
        await stopped;
        await server.close();
      } finally {
        off();
      }
    });
}

function withPlainError(fields: object): object {
  if (!('error' in fields) || !(fields.error instanceof DeltahopError)) return fields;
  return { ...fields, error: { code: fields.error.code, message: printable(fields.error.message) } };
}

function collectModule(text: string, before: Record<string, string> = {}): Record<string, string> {
  const at = text.indexOf('=');
  const name = text.slice(0, at);
  if (at < 1 || at === text.length - 1) throw new InvalidArgumentError('Write NAME=DIR.');
  if (!isModuleName(name)) throw new InvalidArgumentError('A module name is made of letters, digits and . _ -');
  if (Object.hasOwn(before, name)) throw new InvalidArgumentError(`${name} is given twice.`);
  return { ...before, [name]: text.slice(at + 1) };
}

function readCount(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1 && count <= 256) return count;
  throw new InvalidArgumentError('A whole number from 1 to 256 is needed.');
}
