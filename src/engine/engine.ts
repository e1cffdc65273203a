/**
 * The engine as a library: signature, delta and patch of single files, and the transfer of whole trees over any Duplex.
 * This is the package's entry point for programs that embed it.
 */
import { DeltahopError } from '../errors.js';
import { nativeEngine } from './native.js';
import type { Engine } from './operations.js';

export type {
  CommonFile,
  DeltaOptions,
  Engine,
  Found,
  OperationOptions,
  OperationReport,
  Progress,
  ReceiveOptions,
  SendOptions,
  SharedBasis,
  SignatureOptions,
  Sink,
  Source,
  Statistics,
  TreeDigest,
  TreePart,
} from './operations.js';

const choice = process.env['DELTAHOP_ENGINE'] ?? 'native';
// Loaded only where it was asked for: its packages need not even be built for everybody else.
const portable = choice === 'portable' ? await (await import('./portable.js')).portableEngine() : null;
let warned = false;

/**
 * The engine in use: the native one, or what DELTAHOP_ENGINE in the environment names (`native`, `portable`). There is
 * no silent fallback: the portable engine warns, once a process.
 * @throws DeltahopError DELTAHOP_E_NATIVE_UNAVAILABLE with what was tried and how to mend it;
 *   DELTAHOP_E_INVALID_ARGUMENT for another name.
 */
export function loadEngine(): Engine {
  if (portable !== null) {
    if (!warned) {
      process.emitWarning(`DELTAHOP_ENGINE=portable: the portable engine is in use; it is many times slower`, {
        code: 'DELTAHOP_PORTABLE_ENGINE',
      });
    }
    warned = true;
    return portable;
  }
  if (choice !== 'native') {
    throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `DELTAHOP_ENGINE=${choice}: must be native or portable`);
  }
  return nativeEngine();
}
