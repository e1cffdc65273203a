/** Trees of files for tests: random ones, and what a tree holds as text that can be compared. */
import { createHash } from 'node:crypto';
import {
  chmodSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { noise } from './edits.js';

/** One entry of a random tree. */
export interface TreeEntry {
  path: string;
  kind: 'file' | 'directory' | 'symlink' | 'hardlink' | 'sparse';
  seed: number;
  bytes: number;
}

/** Lists of entries with few names, so that two trees have most paths in common and differ in what lies there. */
export function treeEntries(maxBytes: number): fc.Arbitrary<TreeEntry[]> {
  const name = fc.constantFrom('a', 'b', 'c', 'd\n', 'é', '-x', 'z'.repeat(200));
  const path = fc.array(name, { minLength: 1, maxLength: 4 }).map((names) => names.join('/'));
  return fc.array(
    fc.record({
      path,
      kind: fc.constantFrom('file', 'file', 'file', 'directory', 'symlink', 'hardlink', 'sparse'),
      seed: fc.nat(20),
      bytes: fc.oneof(fc.constantFrom(0, 1, 4095, 4096), fc.nat(maxBytes)),
    }),
    { maxLength: 14 },
  );
}

/** Makes a tree of such entries in a new directory; an entry that has no place (a file stands in its way) is left out. */
export function makeTree(root: string, entries: readonly TreeEntry[]): void {
  mkdirSync(root, { recursive: true });
  const made = new Map<string, TreeEntry['kind']>();
  const files: string[] = [];
  for (const { path, kind, seed, bytes } of entries) {
    const full = join(root, path);
    const above = path.split('/').slice(0, -1);
    const parents = above.map((_, i) => above.slice(0, i + 1).join('/'));
    if (made.has(path) || parents.some((parent) => (made.get(parent) ?? 'directory') !== 'directory')) continue;
    for (const parent of parents) made.set(parent, 'directory');
    mkdirSync(dirname(full), { recursive: true });
    made.set(path, kind);
    const linked = files[seed % Math.max(1, files.length)];
    if (kind === 'directory') mkdirSync(full, { recursive: true });
    else if (kind === 'symlink') symlinkSync(`../no\u0007where/${seed}`, full);
    else if (kind === 'hardlink' && linked !== undefined) linkSync(linked, full);
    else {
      writeFileSync(full, noise(seed, bytes));
      if (kind === 'sparse') truncateSync(full, bytes + 300_000);
      files.push(full);
    }
    if (kind !== 'symlink') chmodSync(full, 0o700 + (seed & 0o77));
  }
  // Children first: making an entry changes its directory's time.
  for (const [index, path] of [...made.keys()].sort().reverse().entries()) setTime(join(root, path), index);
  setTime(root, made.size);
}

function setTime(path: string, index: number): void {
  const time = 1_600_000_000 + index * 1.000_001;
  if (lstatSync(path).isSymbolicLink()) lutimesSync(path, time, time);
  else utimesSync(path, time, time);
}

/** Every entry as one line: type and permissions, owner, time, size, links, what it holds. Equal trees give equal text. */
export function describeTree(root: string): string {
  const lines: string[] = [];
  const firstNames = new Map<bigint, string>();
  const visit = (path: string): void => {
    const full = join(root, path);
    const status = lstatSync(full, { bigint: true });
    let holds = '';
    if (status.isSymbolicLink()) holds = `-> ${JSON.stringify(readlinkSync(full))}`;
    else if (status.isFile()) {
      const first = firstNames.get(status.ino) ?? path;
      firstNames.set(status.ino, first);
      holds = `= ${first} ${status.size} ${createHash('sha256').update(readFileSync(full)).digest('hex')}`;
    }
    lines.push(
      `${JSON.stringify(path)} ${status.mode.toString(8)} ${status.uid}:${status.gid} ${status.mtimeNs} ${holds}`,
    );
    if (status.isDirectory())
      for (const name of readdirSync(full).sort()) visit(path === '' ? name : `${path}/${name}`);
  };
  visit('');
  return lines.join('\n');
}
