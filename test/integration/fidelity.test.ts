/** Layers and instances arrive equal in everything that a file system can hold; stock rsync is the judge. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ServiceView } from '../../src/agent/messages.js';
import { testUnless } from '../support/obstacle.js';
import { run } from '../testbed/command.js';
import type { TestbedNode } from '../testbed/node.js';
import { makeProbeTrees, mustRun } from '../testbed/probe/probe-service.js';
import { Testbed } from '../testbed/testbed.js';
import { hop } from './support/hop.js';
import { leftovers } from './support/leftovers.js';
import { benchUnavailable } from './support/probe-bench.js';
import { setUp } from './support/set-up.js';

const obstacle = benchUnavailable();
const check = testUnless(test, obstacle);

/** Fills a directory ($1) with one of everything that copies tend to lose. */
const everyKind = `set -eu
mkdir -p "$1"
cd "$1"
cp /bin/true capable
setcap cap_net_raw,cap_net_bind_service+ep capable
mkdir acl
setfacl -m u:1234:rwx,g:4321:--- acl
setfacl -d -m u:1234:r-x,g:77:rw- acl
echo inherits >acl/file
setfacl -m u:99:r-- acl/file
echo linked >link-1
ln link-1 acl/link-2
ln link-1 link-3
mknod null c 1 3
mknod block b 7 99
mknod -m 600 numbers c 240 1048575
mkfifo -m 620 fifo
ln fifo fifo-too
truncate -s 16M sparse
printf middle | dd of=sparse bs=1 seek=8388608 conv=notrunc status=none
printf end | dd of=sparse bs=1 seek=16777213 conv=notrunc status=none
truncate -s 3M only-a-hole
truncate -s 100000 ends-in-a-hole
printf start | dd of=ends-in-a-hole conv=notrunc status=none
: >empty
mkdir -m 700 empty-directory
odd=$(printf 'new\\nline') && echo 1 >"$odd"
odd=$(printf 'not \\377\\376 utf-8') && echo 2 >"$odd"
odd=$(printf 'tab\\tand\\033escape') && echo 3 >"$odd"
echo 4 >' leading and trailing '
echo 5 >./-n
echo 6 >'*?[a]\\$HOME;"'
long=$(printf 'n%.0s' $(seq 255)) && echo 7 >"$long"
ln -s 'nowhere/at all' dangling
ln -s "$(printf 'to\\n\\377')" odd-link
ln -s / root-link
ln -s ../../../../etc/passwd upward-link
ln -P dangling dangling-too
setfattr -n user.long -v "$(printf 'v%.0s' $(seq 2000))" empty
setfattr -n user.binary -v 0x00ff0a00 link-1
setfattr -n trusted.of-root -v secret acl
setfattr -h -n trusted.of-link -v link dangling
cp /bin/true suid && chmod 4755 suid
mkdir sgid && chmod 2775 sgid
mkdir -m 1777 sticky
echo secret >none && chmod 0 none
echo owned >owned && chown 65534:12345 owned && chown -h 1:2 odd-link
head -c 300000 /dev/urandom >random
touch -d '1999-12-31 23:59:59.123456789 UTC' none
touch -d '2038-01-19 03:14:08.999999999 UTC' owned
touch -h -d '2001-02-03 04:05:06.700000001 UTC' dangling root-link
touch -d '2010-10-10 10:10:10.101010101 UTC' empty-directory sgid
`;

/** What a running container does to the files of its layers: $1 is its root. */
const changesOfAnInstance = `set -eu
cd "$1"
rm etc/deleted-by-instance opt/probe/deleted-by-instance
rm -r opt/probe/replaced && mkdir opt/probe/replaced && echo own >opt/probe/replaced/own
rm -r etc/every-kind/acl && echo 'a file where a directory was' >etc/every-kind/acl
rm etc/every-kind/link-3 && mkdir etc/every-kind/link-3
mv etc/every-kind/sgid etc/every-kind/sgid-moved
chmod 640 etc/kept
ln etc/every-kind/link-1 etc/every-kind/link-4
echo more >>etc/every-kind/sparse
setfattr -n user.added -v value opt/probe/kept
setcap cap_chown+p opt/probe/probe
`;

let testbed: Testbed;
let service: string;
let trees: { base: string; app: string };

/** What `rsync` would change to make `to` equal to `from`; overlayfs' own notes about one mount are no content. */
async function differences(from: string, to: string): Promise<string> {
  const notContent = ['origin', 'impure', 'nlink', 'uuid'].map((name) => `--filter=-x trusted.overlay.${name}`);
  const { stdout } = await run([
    // A negative window compares nanoseconds, which the default does not.
    ...['rsync', '-n', '-aHAXi', '--checksum', '--delete', '--modify-window=-1', '--numeric-ids'],
    ...notContent,
    ...[`${from}/`, `${to}/`],
  ]);
  return stdout;
}

/** Bytes on disk of every file of a tree, by path: rsync does not look at holes. */
async function allocation(tree: string): Promise<Map<string, number>> {
  const { stdout } = await run(['find', tree, '-type', 'f', '-printf', '%P\\0%b\\0']);
  const words = stdout.split('\0');
  const blocks = new Map<string, number>();
  for (let index = 0; index + 1 < words.length; index += 2) {
    blocks.set(words[index] ?? '', Number(words[index + 1]) * 512);
  }
  return blocks;
}

/** Fails if a file of `copy` takes more disk than in `original`, but for a little. */
async function assertHolesStay(original: string, copy: string): Promise<void> {
  const [before, after] = [await allocation(original), await allocation(copy)];
  assert.is(after.size, before.size);
  const grown = [...after].filter(([path, bytes]) => bytes > (before.get(path) ?? 0) + 64 * 1024);
  assert.equal(grown, [], 'files that lost their holes');
}

async function layerContent(node: TestbedNode, name: string): Promise<string> {
  const listed = JSON.parse(await mustRun(node, ['layer', 'list', '--json'])) as
    | { name: string; digest: string }[]
    | { layers: { name: string; digest: string }[] };
  const found = (Array.isArray(listed) ? listed : listed.layers).find((layer) => layer.name === name);
  if (found === undefined) throw new Error(`node ${node.name} has no layer ${name}`);
  return join(node.stateDirectory, 'layers', found.digest.replace('blake3:', ''), 'content');
}

function upper(node: TestbedNode): string {
  return join(node.stateDirectory, 'services', service, 'workload/upper');
}

async function rootOf(node: TestbedNode): Promise<string> {
  const { pid } = JSON.parse(await mustRun(node, ['service', 'inspect', service, '--json'])) as ServiceView;
  if (pid === null) throw new Error(`${service} does not run on ${node.name}`);
  return `/proc/${pid}/root`;
}

setUp(test, obstacle, async () => {
  testbed = await Testbed.create({ link: { rateBps: 200_000_000, delayMs: 2 } });
  service = `hold-${testbed.id}`;
  await Promise.all([testbed.a.startAgent(), testbed.b.startAgent()]);
  trees = await makeProbeTrees(join(testbed.directory, 'trees'), { baseMib: 1, appMib: 1 });
  for (const tree of [join(trees.base, 'etc/every-kind'), join(trees.app, 'etc/every-kind')]) {
    await run(['sh', '-c', everyKind, 'sh', tree]);
  }
});

test.after(async () => {
  await testbed?.dispose();
});

check('an imported base layer is equal to its directory', async () => {
  await mustRun(testbed.a, ['layer', 'import', '--kind', 'base', '--name', 'odd-base', trees.base]);
  const content = await layerContent(testbed.a, 'odd-base');
  assert.is(await differences(trees.base, content), '');
  await assertHolesStay(trees.base, content);
});

check('base and imported app layer together are equal to the directory of the app', async () => {
  const { a } = testbed;
  await mustRun(a, ['layer', 'import', '--kind', 'app', '--name', 'odd-app', '--parent', 'odd-base', trees.app]);
  const [base, app] = [await layerContent(a, 'odd-base'), await layerContent(a, 'odd-app')];
  const merged = join(testbed.directory, 'merged');
  await run(['mkdir', merged]);
  await run(['mount', '-t', 'overlay', 'overlay', '-o', `ro,lowerdir=${app}:${base}`, merged]);
  try {
    assert.is(await differences(trees.app, merged), '');
  } finally {
    await run(['umount', merged]);
  }
  // The whole point of a layer over another: what is the same is not there again.
  assert.not.ok(
    (await readdir(join(app, 'usr')).catch((): string[] => [])).includes('share'),
    'the bulk of the base is not repeated',
  );
});

check('a container that changed files of every kind moves', async () => {
  const { a, b } = testbed;
  await mustRun(a, [
    ...['service', 'add', service, '--driver', 'lxc', '--base', 'odd-base', '--app', 'odd-app'],
    ...['--', '/opt/probe/probe', 'hold'],
  ]);
  await mustRun(a, ['service', 'start', service]);
  const root = await rootOf(a);
  await run(['sh', '-c', changesOfAnInstance, 'sh', root]);
  await run(['sh', '-c', everyKind, 'sh', `${root}/data`]);
  const { summary, stderr } = await hop(a, service, b.agentAddress);
  assert.is(summary.error, undefined, stderr);
  assert.is(summary.result, 'moved');
});

check('its layers are equal at both ends', async () => {
  for (const name of ['odd-base', 'odd-app']) {
    const [here, there] = [await layerContent(testbed.a, name), await layerContent(testbed.b, name)];
    // The directory is named by the digest, so this also says that both nodes agree on that.
    assert.is(here.split('/').at(-2), there.split('/').at(-2));
    assert.is(await differences(here, there), '');
    await assertHolesStay(here, there);
  }
});

check('its upper directory is equal at both ends, whiteouts and replaced directories too', async () => {
  const [here, there] = [upper(testbed.a), upper(testbed.b)];
  assert.is(await differences(here, there), '');
  await assertHolesStay(here, there);
  // So that the comparison was not one of nothing with nothing.
  const { stdout } = await run(['find', there, '-type', 'c', '-printf', '%P\\n']);
  const whiteouts = stdout.split('\n');
  for (const path of ['etc/deleted-by-instance', 'opt/probe/deleted-by-instance', 'etc/every-kind/sgid']) {
    assert.ok(whiteouts.includes(path), `${path} is a whiteout`);
  }
  const opaque = await run([
    ...['getfattr', '--only-values', '-n', 'trusted.overlay.opaque', join(there, 'opt/probe/replaced')],
  ]);
  assert.is(opaque.stdout, 'y');
});

check('the container sees at the destination what it saw at the source', async () => {
  const root = await rootOf(testbed.b);
  for (const path of ['etc/deleted-by-instance', 'etc/deleted-by-app', 'opt/probe/deleted-by-instance']) {
    const { code } = await run(['test', '-e', `${root}/${path}`], { check: false });
    assert.is(code, 1, `${path} is gone`);
  }
  assert.equal(await readdir(`${root}/opt/probe/replaced`), ['own']);
  const capabilities = await run(['getcap', `${root}/data/capable`, `${root}/opt/probe/probe`]);
  assert.match(capabilities.stdout, /cap_net_bind_service,cap_net_raw=ep/);
  assert.match(capabilities.stdout, /cap_chown=p/);
});

check('nothing is left behind', async () => {
  await testbed.dispose();
  assert.equal(leftovers(testbed), []);
});

test.run();
