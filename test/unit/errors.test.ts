import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DeltahopError, errorCatalogue, isDeltahopError } from '../../src/errors.js';

const project = fileURLToPath(new URL('../../../', import.meta.url));
const test = suite('errors');

/** The sections of ERRORS.md: code to [cause, remedy]. */
async function documented(): Promise<Map<string, [string, string]>> {
  const text = await readFile(join(project, 'src/ERRORS.md'), 'utf8');
  const sections = text.split(/^## /m).slice(1);
  return new Map(
    sections.map((section) => {
      const match = /^(\S+)\n\n- Cause: (.*)\.\n- Remedy: (.*)\.\n/.exec(section);
      if (match === null) throw new Error(`src/ERRORS.md: section not of the common form: ${section.slice(0, 60)}`);
      const [, code = '', cause = '', remedy = ''] = match;
      return [code, [cause, remedy]];
    }),
  );
}

async function sources(directory: string, extension: RegExp): Promise<string[]> {
  const entries = await readdir(join(project, directory), { recursive: true });
  return entries.filter((entry) => extension.test(entry)).map((entry) => join(directory, entry));
}

test('ERRORS.md documents exactly the catalogue, in its words and its order', async () => {
  const inCatalogue = Object.entries(errorCatalogue).map(([code, { cause, remedy }]) => [code, [cause, remedy]]);
  assert.equal([...(await documented())], inCatalogue);
});

test('every code named in the sources is in the catalogue', async () => {
  const files = [
    ...(await sources('src', /\.(ts|md)$/)),
    ...(await sources('native', /\.(cc|h|md)$/)),
    ...(await sources('bindings', /\.(cc|h)$/)),
  ];
  assert.ok(files.includes('src/errors.ts'), 'the sources were found');
  const unknown: string[] = [];
  for (const file of files) {
    for (const [code] of (await readFile(join(project, file), 'utf8')).matchAll(/\bDELTAHOP_E_[A-Z][A-Z_]*[A-Z]\b/g)) {
      if (!Object.hasOwn(errorCatalogue, code)) unknown.push(`${file}: ${code}`);
    }
  }
  assert.equal(unknown, []);
});

test('causes and remedies are one line, without a full stop', () => {
  for (const [code, { cause, remedy }] of Object.entries(errorCatalogue)) {
    for (const text of [cause, remedy]) assert.match(text, /^[^\n]*[^\n.]$/, code);
  }
});

test('an error carries its remedy, its cause and its errno', () => {
  const cause = new Error('below');
  const error = new DeltahopError('DELTAHOP_E_NO_SPACE', '/var is full', { cause, sysErrno: 28 });
  assert.is(error.remedy, errorCatalogue.DELTAHOP_E_NO_SPACE.remedy);
  assert.is(error.cause, cause);
  assert.is(error.sysErrno, 28);
  assert.ok(isDeltahopError(error, 'DELTAHOP_E_NO_SPACE'));
  assert.not(isDeltahopError(error, 'DELTAHOP_E_IO'));
  assert.not(isDeltahopError(cause));
});

test.run();
