import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { hasLinkRemap } from '../../../src/workload/lxc/link-remaps.js';

/** remap-fpath.img as CRIU writes it: entries of orig_id, remap_id and, if given, remap_type. */
function image(...types: (number | null)[]): Buffer {
  const entries = types.map((type) => {
    const entry = Buffer.from([0x08, 0x07, 0x10, 0x01, ...(type === null ? [] : [0x18, type])]);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(entry.length);
    return Buffer.concat([length, entry]);
  });
  return Buffer.concat([Buffer.from('1943565454391359', 'hex'), ...entries]);
}

test('only a remap by a link has left a name in the files', () => {
  assert.not(hasLinkRemap(image()));
  assert.not(hasLinkRemap(image(1, 2, 1)), 'ghosts and dead processes are in the image alone');
  assert.ok(hasLinkRemap(image(1, 0)));
  assert.ok(hasLinkRemap(image(null)), 'what an older CRIU leaves out means a link');
  assert.ok(hasLinkRemap(image(7)), 'a kind that nobody knows may be anything');
});

test('an image that can not be understood may have left any name', () => {
  assert.ok(hasLinkRemap(image(1).subarray(0, 14)));
  assert.ok(hasLinkRemap(Buffer.from('nonsense, and more of it')));
  assert.ok(hasLinkRemap(Buffer.alloc(0)));
});

test.run();
