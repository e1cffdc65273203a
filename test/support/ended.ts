/** What a process said and how it ended. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';

/** A process that is over. */
export interface Ended {
  code: number | null;
  out: string;
  err: string;
}

/** Waits for the end of a process that was just started with its output piped. */
export async function ended(child: ChildProcess): Promise<Ended> {
  let out = '';
  let err = '';
  child.stdout?.on('data', (text) => {
    out += text;
  });
  child.stderr?.on('data', (text) => {
    err += text;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, out, err };
}
