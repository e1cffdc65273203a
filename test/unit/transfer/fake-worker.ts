/** A worker process whose engine misbehaves on request. */
import { runWorker } from '../../../src/transfer/worker-run.js';
import { fakeEngine } from './fake-engine.js';

runWorker(() => fakeEngine);
