/** Stands for an agent that is killed: starts workers, says their ids, waits. */
import { WorkerPool } from '../../../src/transfer/worker-pool.js';

const pool = new WorkerPool({ entry: new URL('./fake-worker.js', import.meta.url) });
await pool.take();
process.stdout.write(`${pool.pids.join(' ')}\n`);
setInterval(() => {}, 1000);
