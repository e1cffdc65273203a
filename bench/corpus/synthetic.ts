/** Corpora that are computed: the extremes, each as a directory with one file, and a tree of many small files. */
import { closeSync, ftruncateSync, mkdirSync, openSync, utimesSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../test/testbed/command.js';
import type { Corpus } from './corpus.js';
import { RandomBytes } from './random.js';

const kib = 1024;
const mib = 1024 * kib;
const gib = 1024 * mib;

/**
 * When an edition was written, in seconds since 1970. rsync takes files of the same size and second for the same, and both
 * editions can be made within one.
 */
const writtenAtS = { old: 1_700_000_000, new: 1_700_003_600 };

/** Two trees `old` and `new` with a file `data` each. */
function pair(name: string, write: (file: number, which: 'old' | 'new') => void): Corpus {
  return {
    name,
    version: 2,
    make: async (path) => {
      for (const which of ['old', 'new'] as const) {
        mkdirSync(join(path, which));
        const file = openSync(join(path, which, 'data'), 'w');
        try {
          write(file, which);
        } finally {
          closeSync(file);
        }
        for (const entry of ['data', '.']) {
          utimesSync(join(path, which, entry), writtenAtS[which], writtenAtS[which]);
        }
      }
    },
  };
}

function writeRandom(file: number, bytes: number, name: string): void {
  const random = new RandomBytes(name);
  for (let at = 0; at < bytes; at += mib) writeSync(file, random.next(Math.min(mib, bytes - at)));
}

/** One byte in front of everything: every byte is at another offset than before. */
export function insertedInFront(bytes: number): Corpus {
  return pair(`insert-${bytes / mib}m`, (file, which) => {
    if (which === 'new') writeSync(file, '!');
    writeRandom(file, bytes, 'insert');
  });
}

/** Nothing of the old file is in the new one, and nothing can be compressed. */
export function nothingMatches(bytes: number): Corpus {
  return pair(`no-match-${bytes / mib}m`, (file, which) => writeRandom(file, bytes, `no-match ${which}`));
}

/** A file that is almost all hole; 256 islands of 256 KiB, of which 16 change. */
export function sparse(bytes: number): Corpus {
  const islands = 256;
  return pair(`sparse-${bytes / gib}g`, (file, which) => {
    ftruncateSync(file, bytes);
    for (let i = 0; i < islands; ++i) {
      const changed = which === 'new' && i % 16 === 7;
      const offset = Math.floor(((bytes / islands) * i) / mib) * mib;
      writeSync(file, new RandomBytes(`island ${i} ${changed}`).next(256 * kib), 0, 256 * kib, offset);
    }
  });
}

/** Lines of a web server's log; the new one goes on where the old one ended. */
export function grownLog(bytes: number, grownBytes: number): Corpus {
  return pair(`log-${bytes / mib}m`, (file, which) => {
    const random = new RandomBytes('log');
    const paths = [
      '/',
      '/index.html',
      '/api/v1/items',
      '/api/v1/users',
      '/static/app.js',
      '/static/style.css',
      '/login',
    ];
    const total = which === 'old' ? bytes : bytes + grownBytes;
    for (let at = 0, second = 0; at < total; ) {
      const lines: string[] = [];
      for (let i = 0; i < 4096; ++i, second += 1) {
        const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = random.next(6);
        const time = new Date(1_790_000_000_000 + second * 250).toISOString();
        const path = paths[c % paths.length];
        lines.push(
          `10.${a}.${b}.${d} - - [${time}] "GET ${path}?id=${e * 256 + f} HTTP/1.1" ${e < 240 ? 200 : 404} ${a * f}\n`,
        );
      }
      // The same lines in both files, cut where the old one ends.
      const text = Buffer.from(lines.join('')).subarray(0, total - at);
      at += writeSync(file, text);
    }
  });
}

/** Every 4 KiB block is the same; the new file has an odd one in 16 places. */
export function alikeBlocks(bytes: number): Corpus {
  return pair(`alike-${bytes / mib}m`, (file, which) => {
    const block = new RandomBytes('alike').next(4 * kib);
    const blocks = bytes / block.length;
    for (let i = 0; i < blocks; ++i) {
      const odd = which === 'new' && i % (blocks / 16) === 5;
      writeSync(file, odd ? new RandomBytes(`odd ${i}`).next(block.length) : block);
    }
  });
}

/**
 * Blocks that differ but have the same rolling sum in rsync: a byte raised by one, its neighbour lowered by two, the next
 * raised by one leave the sum of the bytes and the weighted sum as they were. Every 512 bytes carry such changes, so that
 * aligned blocks of all sizes collide, between the two files and within each.
 */
export function weakSumCollisions(bytes: number): Corpus {
  const unitBytes = 512;
  return pair(`weak-collisions-${bytes / mib}m`, (file, which) => {
    const base = new RandomBytes('weak base').next(unitBytes).map((byte) => 2 + (byte % 250));
    const random = new RandomBytes(`weak ${which}`);
    for (let at = 0; at < bytes; at += mib) {
      const chunk = Buffer.alloc(mib);
      const choices = random.next(mib / 4);
      for (let unit = 0; unit < mib / unitBytes; ++unit) {
        const start = unit * unitBytes;
        chunk.set(base, start);
        for (let i = 0; i < unitBytes / 4; ++i) {
          const choice = (choices[unit * (unitBytes / 4) + i] ?? 0) & 1;
          const first = start + 4 * i;
          chunk[first] = (chunk[first] ?? 0) + choice;
          chunk[first + 1] = (chunk[first + 1] ?? 0) - 2 * choice;
          chunk[first + 2] = (chunk[first + 2] ?? 0) + choice;
        }
      }
      writeSync(file, chunk);
    }
  });
}

/**
 * Pages that differ but have the same XXH3-64 and XXH3-128, with the default secret and with most seeds below 2^32, and the
 * same rolling sum in rsync: two bits flipped in lane 0 of stripes 0 and 12, where the product that each stripe adds changes
 * by the same amount up and down if the high halves of the two keyed words are equal; the same the other way round in the
 * next KiB keeps rsync's weighted sum.
 */
export function hashCollisions(bytes: number): Corpus {
  // The high halves of words 0 and 12 of XXH3's default secret, whose lowest bits are equal, too; a seed below 2^32 adds
  // to the low halves alone, but for a carry.
  const difference = 0xbe4ba423 ^ 0x3f349ce3;
  const pageBytes = 4096;
  return pair(`hash-collisions-${bytes / mib}m`, (file, which) => {
    const random = new RandomBytes('hash collisions');
    for (let at = 0; at < bytes; at += mib) {
      const chunk = random.next(mib);
      for (let page = 0; page < mib; page += pageBytes) {
        for (const [start, first] of [
          [page, which === 'old' ? 0 : 1],
          [page + 1024, which === 'old' ? 1 : 0],
        ] as const) {
          const later = start + 12 * 64;
          chunk[start] = ((chunk[start] ?? 0) & 0xfe) | first;
          chunk[later] = ((chunk[later] ?? 0) & 0xfe) | (1 - first);
          chunk.writeUInt32LE((chunk.readUInt32LE(start + 4) ^ difference) >>> 0, later + 4);
        }
      }
      writeSync(file, chunk);
    }
  });
}

/** Files of 1 KiB, half text and half random, in directories of 1000; one of a hundred changes. */
export function smallFiles(count: number): Corpus {
  const perDirectory = 1000;
  return {
    name: `small-files-${count / 1000}k`,
    version: 2,
    make: async (path) => {
      const old = join(path, 'old');
      const contents = (i: number, edition: number): Buffer => {
        const random = new RandomBytes(`small ${i} ${edition}`);
        const text = Array.from({ length: 16 }, () => `key-${random.below(4096)} = value of it ${random.below(100)}\n`);
        return Buffer.concat([Buffer.from(text.join('')).subarray(0, 512), new RandomBytes(`small ${i}`).next(512)]);
      };
      const name = (i: number): string => `d${Math.floor(i / perDirectory)}/f${i}`;
      for (let d = 0; d < count / perDirectory; ++d) mkdirSync(join(old, `d${d}`), { recursive: true });
      const write = (file: string, bytes: Buffer, atS: number): void => {
        writeFileSync(file, bytes);
        utimesSync(file, atS, atS);
      };
      for (let i = 0; i < count; ++i) write(join(old, name(i)), contents(i, 0), writtenAtS.old);
      await run(['cp', '-a', old, join(path, 'new')], { timeoutMs: 600_000 });
      for (let i = 7; i < count; i += 100) {
        write(join(path, 'new', name(i)), contents(i, 1), writtenAtS.new);
      }
    },
  };
}

/** As many files of a few bytes as asked for, in directories of 1000; one of a hundred changes. */
export function manyFiles(count: number): Corpus {
  const perDirectory = 1000;
  return {
    name: `many-files-${count / 1000}k`,
    version: 1,
    make: async (path) => {
      for (const which of ['old', 'new'] as const) {
        for (let i = 0; i < count; ++i) {
          const directory = join(path, which, `d${Math.floor(i / perDirectory)}`);
          if (i % perDirectory === 0) mkdirSync(directory, { recursive: true });
          const edition = i % 100 === 7 ? which : 'old';
          const file = join(directory, `f${i}`);
          writeFileSync(file, `what the ${edition} file ${i} has in it\n`);
          utimesSync(file, writtenAtS[edition], writtenAtS[edition]);
        }
      }
    },
  };
}
