/** How much a running container would bring along, from outside and without stopping it. */
import { type FileHandle, open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Pages of a sample that are taken together: what lies side by side is alike, and compressed together in an image too. */
const runPages = 16;
const pageBytes = 4096;
/** Regions and places that are looked at, at most. */
const maxPlaces = 512;
/** Of an entry of /proc/PID/pagemap (proc(5)): the page is in memory. */
const presentBit = 1n << 63n;

/** What is mapped of the kernel's own tmpfs: memory that processes share, which is no file of the container's. */
const sharedMemory = /^\/(dev\/zero|SYSV[0-9a-f]{8}|memfd:.*) \(deleted\)$/;

/**
 * What of processes' own memory an image would hold: its size, and a sample of at most `sampleBytes`. The size leaves out
 * what they share (see {@link Cgroup.sharedAndSwapped}); a page that a fork has left to two of them is in an image twice.
 */
export async function memoryOfProcesses(
  pids: readonly number[],
  sampleBytes: number,
): Promise<{ bytes: number; sample: Buffer }> {
  let bytes = 0;
  const regions: { pid: number; start: number; end: number }[] = [];
  const shared = new Set<string>();
  for (const pid of pids) {
    // Unlike smaps_rollup, for which the kernel looks at every page while it holds the process's memory map.
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    bytes += Number(/^RssAnon:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
    for (const line of (await readFile(`/proc/${pid}/maps`, 'utf8').catch(() => '')).split('\n')) {
      const [, start, end, kind, inode, path = ''] =
        /^([0-9a-f]+)-([0-9a-f]+) rw-([ps]) \S+ \S+ (\d+) *(.*)/.exec(line) ?? [];
      if (start === undefined || end === undefined) continue;
      if (kind === 's') {
        const object = `${inode} ${path}`;
        if (!sharedMemory.test(path) || shared.has(object)) continue;
        shared.add(object);
      } else if (inode !== '0') {
        continue;
      }
      regions.push({ pid, start: Number.parseInt(start, 16), end: Number.parseInt(end, 16) });
    }
  }
  return { bytes, sample: await sampleOf(regions, sampleBytes) };
}

async function sampleOf(
  regions: readonly { pid: number; start: number; end: number }[],
  sampleBytes: number,
): Promise<Buffer> {
  const total = regions.reduce((sum, { start, end }) => sum + (end - start), 0);
  const runBytes = runPages * pageBytes;
  const step = Math.max(runBytes, Math.floor(total / maxPlaces / pageBytes) * pageBytes);
  const pieces: Buffer[] = [];
  const files = new Map<number, { pagemap: FileHandle; memory: FileHandle } | null>();
  try {
    for (const { pid, start, end } of regions) {
      if (!files.has(pid)) files.set(pid, await openMemory(pid));
      const file = files.get(pid);
      for (let at = start; file != null && at < end; at += step) {
        const pages = Math.min(runPages, (end - at) / pageBytes);
        const entries = Buffer.alloc(8 * pages);
        const image = Buffer.alloc(pageBytes * pages);
        try {
          await file.pagemap.read(entries, 0, entries.length, (at / pageBytes) * 8);
          await file.memory.read(image, 0, image.length, at);
        } catch {
          continue; // unmapped meanwhile, or not readable
        }
        for (let page = 0; page < pages; page++) {
          const present = (entries.readBigUInt64LE(8 * page) & presentBit) !== 0n;
          if (present) pieces.push(image.subarray(page * pageBytes, (page + 1) * pageBytes));
        }
      }
    }
  } finally {
    for (const file of files.values()) await Promise.all([file?.pagemap.close(), file?.memory.close()]);
  }
  // Too much was present: every so many runs stand for all.
  const every = Math.max(1, Math.ceil((pieces.length * pageBytes) / sampleBytes));
  return Buffer.concat(pieces.filter((_, index) => Math.floor(index / runPages) % every === 0));
}

async function openMemory(pid: number): Promise<{ pagemap: FileHandle; memory: FileHandle } | null> {
  const pagemap = await open(`/proc/${pid}/pagemap`, 'r').catch(() => null);
  const memory = await open(`/proc/${pid}/mem`, 'r').catch(() => null);
  if (pagemap !== null && memory !== null) return { pagemap, memory };
  await Promise.all([pagemap?.close(), memory?.close()]);
  return null;
}

/** Bytes of the regular files beneath a directory, as far as a glance at so many entries shows. */
export async function treeBytes(path: string, maxEntries: number): Promise<number> {
  let bytes = 0;
  let left = maxEntries;
  const visit = async (directory: string): Promise<void> => {
    for (const entry of await readdir(directory, { withFileTypes: true }).catch(() => [])) {
      if (left-- <= 0) return;
      const inner = join(directory, entry.name);
      if (entry.isDirectory()) await visit(inner);
      else if (entry.isFile()) bytes += (await stat(inner).catch(() => null))?.blocks ?? 0;
    }
  };
  await visit(path);
  return bytes * 512;
}
