/**
 * Joins the compiled modules of the program and of its transfer workers, and what they import, into a few files. Node needs
 * a millisecond of CPU for each module that it loads, and every sync and every connection starts a process.
 */
import { rmSync } from 'node:fs';
import { build } from 'esbuild';

// Names of chunks change with what is in them.
rmSync('dist/program', { recursive: true, force: true });
await build({
  entryPoints: ['dist/src/cli/main.js', 'dist/src/transfer/worker.js'],
  // As deep as the modules themselves: paths of the package's other files are told from their own. One beside the other:
  // the program starts the worker.
  outdir: 'dist/program/cli',
  entryNames: '[name]',
  chunkNames: '[name]-[hash]',
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  // Has an addon of its own beside it.
  external: ['zstd-napi'],
  // What of this is CommonJS calls require().
  banner: {
    js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);",
  },
  logLevel: 'warning',
});
