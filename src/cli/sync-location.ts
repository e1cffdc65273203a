/** What a user writes as source or target of a sync. */
import { type Address, parseAddress } from '../agent/peers.js';
import { DeltahopError } from '../errors.js';

/** A path of this machine, of another one by ssh, or of a server's module. */
export type Location =
  | { kind: 'local'; path: string }
  | { kind: 'ssh'; host: string; path: string }
  | { kind: 'server'; address: Address; module: string; path: string };

const scheme = 'deltahop://';

/**
 * Reads `PATH`, `[USER@]HOST:PATH` (a colon before the first slash) or `deltahop://HOST:PORT/MODULE[/PATH]`. Nothing in it is
 * decoded: a `%` is a `%`.
 * @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT
 */
export function parseLocation(text: string): Location {
  if (text === '') throw wrong(text, 'a path cannot be empty; write . for the current directory');
  if (text.startsWith(scheme)) return serverLocation(text);
  const match = /^((?:[^/:[\]]*@)?(?:\[[^/[\]]*\]|[^/:[\]]*)):(.*)$/s.exec(text);
  if (match === null) return { kind: 'local', path: text };
  const [, place = '', path = ''] = match;
  if (path.startsWith(':')) throw wrong(text, `write ${scheme}HOST:PORT/MODULE/PATH for a server's module`);
  // ssh takes an IPv6 address without the brackets that tell its colons from ours.
  const host = place.replace('[', '').replace(']', '');
  if (host === '' || host.endsWith('@')) throw wrong(text, 'it names no host; write ./ in front of a local path');
  return { kind: 'ssh', host, path };
}

function serverLocation(text: string): Location {
  const rest = text.slice(scheme.length);
  const slash = rest.indexOf('/');
  const [place, names] = slash < 0 ? [rest, ''] : [rest.slice(0, slash), rest.slice(slash + 1)];
  const address = parseAddress(place);
  const end = names.indexOf('/');
  const [module, path] = end < 0 ? [names, ''] : [names.slice(0, end), names.slice(end + 1)];
  if (module === '') throw wrong(text, `it names no module; write ${scheme}HOST:PORT/MODULE/PATH`);
  return { kind: 'server', address, module, path };
}

function wrong(text: string, why: string): DeltahopError {
  return new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `${JSON.stringify(text)}: ${why}`);
}
