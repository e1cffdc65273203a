/** Finds the addon and says plainly why, where it cannot. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DeltahopError } from '../errors.js';
import type { Addon } from './addon.js';

/** The addon's interface that this code speaks: kAbiVersion of bindings/addon.cc. */
const abiVersion = 3;

const require = createRequire(import.meta.url);
/** Beside `dist/`, where `npm run build` leaves it. */
const localBuild = fileURLToPath(new URL('../../../build/addon/Release/deltahop.node', import.meta.url));

/** The addon and the file that it came from. */
export interface LoadedAddon {
  addon: Addon;
  path: string;
}

interface Place {
  /** As a message names it. */
  name: string;
  /** The addon's file; null if this place has none. */
  path: () => string | null;
  /** The addon's exports; throws as `require` does. */
  load: () => unknown;
}

function fileOrNull(path: string): string | null {
  return existsSync(path) ? path : null;
}

/** The platforms that have a package. Its name is written out each time: only so do bundlers see it. */
function platformPackage(): Place | null {
  if (process.platform === 'linux' && process.arch === 'x64') {
    return {
      name: 'package @deltahop/native-linux-x64-gnu',
      path: () => packageFile(() => require.resolve('@deltahop/native-linux-x64-gnu')),
      load: () => require('@deltahop/native-linux-x64-gnu'),
    };
  }
  return null;
}

function packageFile(find: () => string): string | null {
  try {
    return find();
  } catch (error) {
    // Another code is a package that is there and broken.
    if ((error as NodeJS.ErrnoException).code === 'MODULE_NOT_FOUND') return null;
    throw error;
  }
}

function places(): Place[] {
  const forced = process.env['DELTAHOP_NATIVE_PATH'];
  if (forced !== undefined && forced !== '') {
    // Who names a file wants that file: nothing else is tried.
    const path = resolve(forced);
    return [{ name: `DELTAHOP_NATIVE_PATH=${forced}`, path: () => fileOrNull(path), load: () => require(path) }];
  }
  const local = { name: localBuild, path: () => fileOrNull(localBuild), load: () => require(localBuild) };
  const packaged = platformPackage();
  return packaged === null ? [local] : [local, packaged];
}

function load(place: Place): LoadedAddon | null {
  let exports: Partial<Addon>;
  let path: string | null;
  try {
    path = place.path();
    if (path === null) return null;
    exports = place.load() as Partial<Addon>;
  } catch (error) {
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error);
    throw new DeltahopError('DELTAHOP_E_NATIVE_UNAVAILABLE', `${place.name} is there but does not load: ${reason}`, {
      cause: error,
    });
  }
  if (exports.abiVersion === abiVersion) {
    const addon = exports as Addon;
    checkKernels(addon);
    return { addon, path };
  }
  throw new DeltahopError(
    'DELTAHOP_E_NATIVE_UNAVAILABLE',
    `${place.name} is of another build: its interface is ${exports.abiVersion ?? 'unknown'}, this code needs ${abiVersion}`,
  );
}

/** Who forces a set of kernels wants that set: running another one in its place would be a measurement of nothing. */
function checkKernels(addon: Addon): void {
  const wanted = process.env['DELTAHOP_KERNELS'];
  if (wanted === undefined || wanted === '' || wanted === addon.kernels.inUse) return;
  throw new DeltahopError(
    'DELTAHOP_E_NATIVE_UNAVAILABLE',
    `DELTAHOP_KERNELS=${wanted}: this machine can run ${addon.kernels.available.join(', ')}`,
  );
}

/**
 * The addon: DELTAHOP_NATIVE_PATH alone if set, else this checkout's build, else the platform's package. A place without
 * one is passed over; one that has it and cannot load it ends the search, never masked by another.
 * @throws DeltahopError DELTAHOP_E_NATIVE_UNAVAILABLE, its message listing what was tried.
 */
export function loadAddon(): LoadedAddon {
  const tried: string[] = [];
  for (const place of places()) {
    const loaded = load(place);
    if (loaded !== null) return loaded;
    tried.push(`${place.name} (not there)`);
  }
  throw new DeltahopError(
    'DELTAHOP_E_NATIVE_UNAVAILABLE',
    `no native engine for Node ${process.version} on ${process.platform}-${process.arch}; tried ${tried.join(', ')}`,
  );
}
