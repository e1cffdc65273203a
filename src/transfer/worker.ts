/** The main program of a transfer worker: a child process of the agent that serves exactly one data connection. */
import { loadEngine } from '../engine/engine.js';
import { runWorker } from './worker-run.js';

runWorker(loadEngine);
