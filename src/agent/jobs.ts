/** Long operations of the agent: they outlive the connection that began them, and end when told to. */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DeltahopError, type ErrorCode, isDeltahopError } from '../errors.js';
import { fileError, readJson, removeUnfinishedWrites, writeJsonDurably } from '../layers/durable-file.js';
import { type ErrorBody, errorBody, errorBodySchema, type JobView, jobViewSchema } from './messages.js';

/** What a job says; `type` tells which. The last one is its result, or `error`. */
export interface JobEvent {
  readonly type: string;
}

/** What a job does. What it resolves to is its last event. */
export type JobWork = (signal: AbortSignal, emit: <Event extends JobEvent>(event: Event) => void) => Promise<JobEvent>;

/** Events kept for whoever follows late; above that the oldest go. */
const keptEvents = 1_000;
/** Jobs whose events are kept after their end. */
const keptJobs = 50;
/** Results kept, of earlier agents too. */
const keptResults = 100;
/** How long an agent that stops waits for its jobs to stop. */
const cancelLimitMs = 5_000;

/** One operation under way, or its result. */
export class Job {
  readonly id: string;
  /** For people: `migration of web to 10.0.0.2:7000`. */
  readonly title: string;
  /** Resolves to its last event, however it ended. */
  readonly finished: Promise<JobEvent>;
  readonly startedAtMs = Date.now();
  #endedAtMs: number | null = null;
  #result: JobEvent | null = null;
  readonly #abort = new AbortController();
  #events: { sequence: number; event: JobEvent }[] = [];
  #sequence = 0;
  #done = false;
  readonly #waiting = new Set<() => void>();

  constructor(title: string, work: JobWork, id: string = randomUUID()) {
    this.id = id;
    this.title = title;
    this.#emit({ type: 'job', id: this.id, title });
    this.finished = this.#run(work);
  }

  get done(): boolean {
    return this.#done;
  }

  get view(): JobView {
    const { id, title, startedAtMs } = this;
    const result = this.#result === null ? null : { ...this.#result };
    return { id, title, startedAtMs, endedAtMs: this.#endedAtMs, state: stateOf(this.#result), result };
  }

  /** Asks it to stop; it says in its last event what became of it. */
  cancel(): void {
    this.#abort.abort(new DeltahopError('DELTAHOP_E_CANCELLED', `${this.title} was cancelled`));
  }

  /** All events from the first on, as they come, until the last. Ends early with `signal`; the job goes on. */
  async *follow(signal: AbortSignal): AsyncGenerator<JobEvent> {
    let seen = 0;
    while (!signal.aborted) {
      const next = this.#events.find(({ sequence }) => sequence > seen);
      if (next !== undefined) {
        seen = next.sequence;
        yield next.event;
      } else if (this.#done) {
        return;
      } else {
        await this.#somethingNew(signal);
      }
    }
  }

  async #run(work: JobWork): Promise<JobEvent> {
    let last: JobEvent;
    try {
      last = await work(this.#abort.signal, (event) => this.#emit(event));
    } catch (error) {
      const failed = { type: 'error', ...errorBody(error) };
      last = failed;
    }
    this.#done = true;
    this.#endedAtMs = Date.now();
    this.#result = last;
    this.#emit(last);
    return last;
  }

  #emit<Event extends JobEvent>(event: Event): void {
    // Only the newest figures of a progress matter; a slow reader must not make the agent hoard the older ones.
    if (event.type === 'progress' && this.#events.at(-1)?.event.type === 'progress') this.#events.pop();
    this.#sequence += 1;
    this.#events.push({ sequence: this.#sequence, event });
    if (this.#events.length > keptEvents) this.#events = this.#events.slice(-keptEvents);
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  async #somethingNew(signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        signal.removeEventListener('abort', wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener('abort', wake, { once: true });
    });
  }
}

function stateOf(result: JobEvent | null): JobView['state'] {
  if (result === null) return 'running';
  const { error } = result as { error?: unknown };
  if (result.type !== 'error' && error === undefined) return 'done';
  const cancelled: ErrorCode = 'DELTAHOP_E_CANCELLED';
  return failureOf(result)?.code === cancelled ? 'cancelled' : 'failed';
}

function failureOf(result: JobEvent | null): ErrorBody | null {
  const failure = result?.type === 'error' ? result : (result as { error?: unknown } | null)?.error;
  return errorBodySchema.safeParse(failure).data ?? null;
}

/** What is left of a job whose agent was killed: nobody else may begin it anew, since its user may not want it any more. */
function interrupted(view: JobView): JobView {
  if (view.state !== 'running') return view;
  const error = new DeltahopError('DELTAHOP_E_INTERRUPTED', `the agent was ended during the ${view.title}`);
  return { ...view, state: 'interrupted', result: { type: 'error', ...errorBody(error) } };
}

/** The jobs of an agent, and the results of those of the agents before it. */
export class Jobs {
  readonly #path: string;
  readonly #jobs = new Map<string, Job>();
  readonly #earlier: Map<string, JobView>;
  /** Of each job whose result is not on disk yet. */
  readonly #recording = new Set<Promise<void>>();
  readonly #onEnd: (title: string, result: JobEvent) => void;

  private constructor(path: string, earlier: readonly JobView[], onEnd: (title: string, result: JobEvent) => void) {
    this.#path = path;
    this.#earlier = new Map(earlier.map((view) => [view.id, view]));
    this.#onEnd = onEnd;
  }

  /**
   * @param path Directory of the results; made if missing.
   * @param onEnd Told of every job's last event, whether or not anybody follows it.
   */
  static async open(path: string, onEnd: (title: string, result: JobEvent) => void): Promise<Jobs> {
    try {
      await mkdir(path, { recursive: true, mode: 0o700 });
      await removeUnfinishedWrites(path);
      const earlier: JobView[] = [];
      for (const name of await readdir(path)) {
        // A result that cannot be read is none: nothing but the reader's curiosity depends on it.
        const view = await readJson(join(path, name), jobViewSchema).catch((error: unknown) => {
          if (isDeltahopError(error, 'DELTAHOP_E_CORRUPT')) return null;
          throw error;
        });
        if (view !== null) earlier.push(interrupted(view));
      }
      return new Jobs(path, earlier.sort(byStart), onEnd);
    } catch (error) {
      throw fileError(error, `cannot read ${path}`);
    }
  }

  start(title: string, work: JobWork): Job {
    const job = new Job(title, work);
    this.#jobs.set(job.id, job);
    // On record from its first moment on: should this agent be killed, the next one can say what became of it.
    const begun = this.#write(job.view);
    const recorded = job.finished
      .then(async (result) => {
        this.#onEnd(job.title, result);
        await begun;
        await this.#write(job.view);
        await this.#forgetOldest();
      })
      .finally(() => this.#recording.delete(recorded));
    this.#recording.add(recorded);
    const done = [...this.#jobs.values()].filter((candidate) => candidate.done);
    for (const old of done.slice(0, Math.max(0, done.length - keptJobs))) {
      this.#earlier.set(old.id, old.view);
      this.#jobs.delete(old.id);
    }
    return job;
  }

  /** What runs and what is remembered, the oldest first. */
  list(): JobView[] {
    return [...this.#earlier.values(), ...[...this.#jobs.values()].map((job) => job.view)].sort(byStart);
  }

  /**
   * By its id or the beginning of it. Of a job of an earlier agent only the result is left to follow.
   * @throws DeltahopError DELTAHOP_E_NOT_FOUND, DELTAHOP_E_INVALID_ARGUMENT if several begin so.
   */
  get(id: string): Job {
    const view = this.#find(id);
    return this.#jobs.get(view.id) ?? new Job(view.title, async () => view.result ?? { type: 'error' }, view.id);
  }

  /**
   * Asks a job to stop, by its id or the beginning of it.
   * @throws DeltahopError as {@link get}, and DELTAHOP_E_ENDED, which says how it ended.
   */
  cancel(id: string): void {
    const { id: whole, title, state, result } = this.#find(id);
    const job = this.#jobs.get(whole);
    if (state !== 'running' || job === undefined) {
      const why = state === 'failed' ? `failed: ${failureOf(result)?.message ?? 'unknown'}` : state;
      throw new DeltahopError('DELTAHOP_E_ENDED', `the ${title} has ended already (${why})`);
    }
    job.cancel();
  }

  #find(id: string): JobView {
    const found = this.list().filter((view) => view.id.startsWith(id));
    if (found.length > 1) throw new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `several jobs begin with ${id}`);
    const [view] = found;
    if (view === undefined || id === '') throw new DeltahopError('DELTAHOP_E_NOT_FOUND', `there is no job ${id}`);
    return view;
  }

  /**
   * Cancels what is under way and waits until its end is on record, though not for ever: a hand-off that is decided is
   * not given up.
   */
  async cancelAll(): Promise<void> {
    for (const job of this.#jobs.values()) if (!job.done) job.cancel();
    if (this.#recording.size === 0) return;
    const limit = new AbortController();
    await Promise.race([
      Promise.all(this.#recording),
      sleep(cancelLimitMs, undefined, { signal: limit.signal }).catch(() => {}),
    ]);
    limit.abort();
  }

  /** A full disk takes the memory of what was, not what is. */
  async #write(view: JobView): Promise<void> {
    await writeJsonDurably(join(this.#path, `${view.id}.json`), view).catch(() => {});
  }

  async #forgetOldest(): Promise<void> {
    const results = this.list().filter(({ state }) => state !== 'running');
    for (const { id } of results.slice(0, Math.max(0, results.length - keptResults))) {
      this.#earlier.delete(id);
      await rm(join(this.#path, `${id}.json`), { force: true }).catch(() => {});
    }
  }
}

function byStart(a: JobView, b: JobView): number {
  return a.startedAtMs - b.startedAtMs;
}
