/** A file of a driver's that is either its old self or its new self, and that can be made again if it is lost. */
import { rename, rm } from 'node:fs/promises';

const unfinished = '.new';

/** Replaces the file at `path` by the one that `make` makes at the path it is given. */
export async function replaceFile(path: string, make: (temporary: string) => Promise<unknown>): Promise<void> {
  await make(`${path}${unfinished}`);
  await rename(`${path}${unfinished}`, path);
}

/** Removes what an agent that was killed in {@link replaceFile} has left beside these. */
export async function removeUnfinished(...paths: readonly string[]): Promise<void> {
  for (const path of paths) await rm(`${path}${unfinished}`, { force: true });
}
