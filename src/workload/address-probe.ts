/** Whether a machine answers at its address. */
import { connect } from 'node:net';

const limitMs = 5_000;

/** Tries `tcp:PORT` or `http:PORT/PATH` from this node, which is on the machine's network. @returns null if well. */
export async function probeAddress(host: string | null, probe: string): Promise<string | null> {
  const [, kind = '', rest = ''] = /^(tcp|http|exec):(.*)$/s.exec(probe) ?? [];
  if (kind === 'exec') return 'a virtual machine has no exec probe: use tcp or http';
  if (host === null) return 'it has no address to be asked at';
  const [, port = '', path = '/'] = /^(\d+)(\/.*)?$/.exec(rest) ?? [];
  if (kind === 'http') {
    try {
      const { status } = await fetch(`http://${host}:${port}${path}`, { signal: AbortSignal.timeout(limitMs) });
      return status < 400 ? null : `status ${status}`;
    } catch (error) {
      return ((error as Error).cause as Error | undefined)?.message ?? (error as Error).message;
    }
  }
  return await new Promise((resolve) => {
    const socket = connect({ host, port: Number(port) });
    const end = (why: string | null): void => {
      socket.destroy();
      resolve(why);
    };
    socket.setTimeout(limitMs, () => end(`no answer in ${limitMs} ms`));
    socket.once('connect', () => end(null));
    socket.once('error', (error) => end(error.message));
  });
}
