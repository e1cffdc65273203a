/** Corpora: directories made once, by real programs or a fixed seed, and kept in a cache. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';

/** A recipe of trees. */
export interface Corpus {
  name: string;
  /** Raised when the recipe changes, so that what was made by the old one is not used. */
  version: number;
  /**
   * Makes the trees as directories below `path`. Throws an Error that says why if that cannot be done here.
   * @param from gives the directory of a corpus that this one is made from.
   */
  make(path: string, from: (other: Corpus) => Promise<string>): Promise<void>;
}

/** Corpora on disk. */
export class CorpusCache {
  readonly #path: string;
  readonly #tell: (line: string) => void;
  /** Why a corpus could not be made, so that it is not tried for every cell. */
  readonly #failures = new Map<string, Error>();

  constructor(path: string, tell: (line: string) => void) {
    this.#path = path;
    this.#tell = tell;
  }

  /** The directory of a corpus, made if it is not there. */
  async directory(corpus: Corpus): Promise<string> {
    const failure = this.#failures.get(corpus.name);
    if (failure !== undefined) throw failure;
    const path = join(this.#path, `${corpus.name}-v${corpus.version}`);
    if (existsSync(path)) return path;
    mkdirSync(this.#path, { recursive: true });
    for (const entry of readdirSync(this.#path)) {
      if (new RegExp(`^${corpus.name}-v\\d+$`).test(entry))
        rmSync(join(this.#path, entry), { recursive: true, force: true });
    }
    this.#tell(`making the corpus ${corpus.name}`);
    const startedAtMs = Date.now();
    const work = mkdtempSync(join(this.#path, `.${corpus.name}-`));
    try {
      await corpus.make(work, (other) => this.directory(other));
      renameSync(work, path);
    } catch (error) {
      this.#failures.set(corpus.name, error as Error);
      rmSync(work, { recursive: true, force: true });
      throw error;
    }
    this.#tell(`made the corpus ${corpus.name} in ${Math.round((Date.now() - startedAtMs) / 1000)} s`);
    return path;
  }
}
