/**
 * `deltahop sync` as its users run it: whole processes, ssh to a real server, and stock rsync as the judge of a tree that has
 * one of everything.
 */
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { noise } from '../support/edits.js';
import { type Ended, ended } from '../support/ended.js';
import { testUnless } from '../support/obstacle.js';
import { withScratch } from '../support/scratch.js';

const program = fileURLToPath(new URL('../../program/cli/main.js', import.meta.url));

function has(command: string): boolean {
  return spawnSync('sh', ['-c', 'command -v "$1"', 'sh', command]).status === 0;
}

const notRoot = process.getuid?.() === 0 ? null : 'making devices and owners needs root';
const missing = ['rsync', 'setfacl', 'setfattr', 'setcap'].filter((command) => !has(command));
const judged = testUnless(test, notRoot ?? (missing.length === 0 ? null : `${missing.join(', ')}: not installed`));
const overSsh = testUnless(
  test,
  notRoot ?? (['dropbear', 'ssh', 'ssh-keygen'].every(has) ? null : 'dropbear-bin and openssh-client: not installed'),
);

/** Fills a new directory ($1) with one of everything that copies tend to lose; $2 makes the versions differ. */
const everything = `set -eu
mkdir -p "$1"
cd "$1"
cp /bin/true capable
setcap cap_net_raw+ep capable
mkdir acl
setfacl -m u:1234:rwx,g:4321:--- acl
setfacl -d -m u:1234:r-x acl
echo inherits >acl/file
echo "linked $2" >link-1
ln link-1 acl/link-2
mknod null c 1 3
mknod block b 7 "$2"
mkfifo -m 620 fifo
truncate -s 16M sparse
printf "middle $2" | dd of=sparse bs=1 seek=8388608 conv=notrunc status=none
: >empty
mkdir -m 700 empty-directory
odd=$(printf 'new\\nline') && echo 1 >"$odd"
odd=$(printf 'not \\377\\376 utf-8') && echo 2 >"$odd"
ln -s "nowhere/$2" dangling
ln -s "$(printf 'to\\n\\377')" odd-link
setfattr -n user.long -v "$(printf 'v%.0s' $(seq 2000))" empty
setfattr -n user.version -v "$2" link-1
setfattr -n trusted.overlay.opaque -v y empty-directory
chown 1234:4321 acl/file
chown -h 77:88 dangling
chmod 4755 capable
touch -d '1969-12-31 23:59:58.123456789 UTC' empty
touch -h -d '2001-02-03 04:05:06.7 UTC' dangling
head -c 300000 /dev/zero | tr '\\0' "$2" >letters
mkdir "only-in-$2"
echo "$2" >"only-in-$2/file"`;

function makeEverything(path: string, version: number): void {
  const { status, stderr } = spawnSync('bash', ['-c', everything, 'bash', path, String(version)], { encoding: 'utf8' });
  assert.is(status, 0, stderr);
}

/** What stock rsync would still change; empty if the trees are equal. */
function difference(source: string, target: string): string {
  const { stdout, stderr } = spawnSync(
    'rsync',
    ['-n', '-aHAXi', '--checksum', '--delete', `${source}/`, `${target}/`],
    {
      encoding: 'utf8',
    },
  );
  return stdout + stderr;
}

/** Runs the command; its processes are gone afterwards. */
async function deltahop(args: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
  const child = spawn(process.execPath, [program, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  return await ended(child);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** `deltahop serve` of one directory for as long as `use` runs; it must end well when interrupted. */
async function serving(directory: string, use: (url: string) => Promise<void>): Promise<void> {
  const child = spawn(
    process.execPath,
    [program, 'serve', '--json', '--listen', '127.0.0.1:0', '--module', `m=${directory}`],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const end = ended(child);
  try {
    const listen = await new Promise<string>((resolve, reject) => {
      child.stdout?.once('data', (text) => resolve((JSON.parse(String(text)) as { listen: string }).listen));
      child.once('exit', (code) => reject(new Error(`serve exited with ${code}`)));
    });
    await use(`deltahop://${listen}/m`);
  } finally {
    child.kill('SIGINT');
  }
  assert.is((await end).code, 0);
}

interface Shell {
  /** For -e. */
  command: string;
  directory: string;
}

/**
 * An ssh server on loopback with throw-away keys, for as long as `use` runs. It is Dropbear, whose package starts no
 * service; it wants the keys in root's home, so there it sees a file system of its own.
 */
async function withSshServer(use: (shell: Shell) => Promise<void>): Promise<void> {
  await withScratch(async (directory) => {
    const file = (name: string): string => join(directory, name);
    for (const name of ['host', 'user']) {
      const { status } = spawnSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', file(name)]);
      assert.is(status, 0, 'ssh-keygen');
    }
    assert.is(spawnSync('dropbearconvert', ['openssh', 'dropbear', file('host'), file('key')]).status, 0, 'host key');
    const port = await freePort();
    writeFileSync(file('known'), `[127.0.0.1]:${port} ${readFileSync(file('host.pub'), 'utf8')}`);
    const keys = join(userInfo().homedir, '.ssh');
    const wasThere = existsSync(keys);
    if (!wasThere) mkdirSync(keys, { mode: 0o700 });
    const script = `set -e
mount -t tmpfs -o mode=700 tmpfs "$1"
cp "$2/user.pub" "$1/authorized_keys"
exec dropbear -F -E -s -m -P "$2/pid" -r "$2/key" -p "127.0.0.1:$3"`;
    const server = spawn('unshare', ['--mount', 'sh', '-c', script, 'sh', keys, directory, String(port)], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const end = ended(server);
    try {
      const command = [
        `ssh -p ${port} -i ${file('user')} -F none -o IdentitiesOnly=yes -o BatchMode=yes`,
        `-o UserKnownHostsFile=${file('known')} -o StrictHostKeyChecking=yes -o ConnectionAttempts=20`,
      ].join(' ');
      await use({ command, directory });
    } finally {
      server.kill('SIGTERM');
      await end;
      if (!wasThere) rmSync(keys, { recursive: true, force: true });
    }
  });
}

judged('rsync finds no difference after a push and a pull of everything, new and over an older version', () =>
  withScratch(async (directory) => {
    const at = (name: string): string => join(directory, name);
    mkdirSync(at('served'));
    makeEverything(at('new'), 2);
    makeEverything(at('served/old'), 1);
    makeEverything(at('old'), 1);
    await serving(at('served'), async (url) => {
      for (const [source, target, from, to] of [
        [`${at('new')}/`, `${url}/fresh`, 'new', 'served/fresh'],
        [`${at('new')}/`, `${url}/old`, 'new', 'served/old'],
        [`${url}/fresh/`, at('pulled'), 'served/fresh', 'pulled'],
        [`${url}/fresh/`, at('old'), 'served/fresh', 'old'],
      ] as const) {
        const { code, err } = await deltahop(['sync', '-a', '--delete', source, target]);
        assert.is(code, 0, err);
        assert.is(difference(at(from), at(to)), '', `${source} to ${target}`);
        const again = await deltahop(['sync', '-i', '--delete', source, target]);
        assert.equal(again, { code: 0, out: '', err: '' });
      }
    });
    const local = await deltahop(['sync', '-c', '--fsync', at('new'), at('local')]);
    assert.is(local.code, 0, local.err);
    assert.is(difference(at('new'), at('local/new')), '');
  }),
);

judged('what a dry run lists is what rsync lists', () =>
  withScratch(async (directory) => {
    const [from, to] = [join(directory, 'from'), join(directory, 'to')];
    makeEverything(from, 2);
    makeEverything(to, 1);
    // To rsync times within one second are equal, to us they are not: so they are equal, or differ by more.
    for (const path of [from, to]) spawnSync('find', [path, '-exec', 'touch', '-h', '-d', '2020-01-01', '{}', '+']);
    const changed = ['letters', 'acl/file', 'empty-directory', 'capable'].map((name) => join(from, name));
    spawnSync('touch', ['-d', '2020-02-02', ...changed]);
    chmodSync(join(to, 'empty-directory'), 0o750);
    // Which of two hard links is the first is each program's own choice.
    const lines = (text: string): string[] =>
      text
        .split('\n')
        .filter((line) => /^[<>.c][fdDS]/.test(line) && !line.includes('link-'))
        .sort();
    const ours = await deltahop(['sync', '-n', '-i', '--delete', `${from}/`, to]);
    const theirs = spawnSync('rsync', ['-n', '-aHAXi', '--delete', `${from}/`, `${to}/`], {
      encoding: 'utf8',
      env: { ...process.env, LC_ALL: 'C.UTF-8' },
    });
    assert.equal(lines(ours.out), lines(theirs.stdout));
    const deleted = (text: string): string[] => text.split('\n').filter((line) => line.startsWith('*deleting'));
    assert.equal(deleted(ours.out).sort(), deleted(theirs.stdout).sort());
  }),
);

overSsh('push and pull over ssh, with paths that a shell would spoil', () =>
  withSshServer(async ({ command, directory }) => {
    const at = (name: string): string => join(directory, name);
    const remote = at('deltahop');
    writeFileSync(remote, `#!/bin/sh\nexec '${process.execPath}' '${program}' "$@"\n`);
    chmodSync(remote, 0o755);
    const host = `${userInfo().username}@127.0.0.1`;
    const options = ['sync', '-e', command, '--remote-command', remote];
    mkdirSync(at('source'));
    writeFileSync(join(at('source'), 'noise'), noise(1, 2_000_000));
    writeFileSync(join(at('source'), 'small'), 'small');
    // The remote shell stands in the user's home.
    const mark = `deltahop-test-${process.pid}`;
    const odd = at(`odd $(touch ${mark}) ; touch ${mark} \n"'`);
    const push = await deltahop([...options, '-i', `${at('source')}/`, `${host}:${odd}`]);
    assert.is(push.code, 0, push.err);
    assert.match(push.out, /^<f\+{9} noise$/m);
    assert.not(existsSync(join(userInfo().homedir, mark)));
    assert.is(difference(at('source'), odd), '');
    const pull = await deltahop([...options, '--delete', `${host}:${odd}/`, at('pulled')]);
    assert.is(pull.code, 0, pull.err);
    assert.is(difference(at('source'), at('pulled')), '');
    const again = await deltahop([...options, '--json', `${host}:${odd}/`, at('pulled')]);
    const summary = JSON.parse(again.out.trimEnd().split('\n').at(-1) ?? '') as { bytesReceived: number };
    assert.ok(summary.bytesReceived < 2000, again.out);
    const refused = await deltahop([...options, `${host}:${at('nothing')}`, at('pulled')]);
    assert.is(refused.code, 1);
    assert.match(refused.err, /says: there is no .*nothing/);
    const unknown = await deltahop(['sync', '-e', `${command} -o User=nobody-here`, at('source'), '127.0.0.1:x']);
    assert.is(unknown.code, 1);
    assert.match(unknown.err, /exited with 255/);
  }),
);

overSsh('what is remembered at both ends of ssh makes the next push and the next pull small', () =>
  withSshServer(async ({ command, directory }) => {
    const at = (name: string): string => join(directory, name);
    writeFileSync(
      at('deltahop'),
      `#!/bin/sh\nexport XDG_STATE_HOME='${at('state-there')}'\nexec '${process.execPath}' '${program}' "$@"\n`,
    );
    chmodSync(at('deltahop'), 0o755);
    const there = `${userInfo().username}@127.0.0.1:${at('there')}/`;
    mkdirSync(at('here'));
    writeFileSync(join(at('here'), 'image'), noise(1, 1 << 20));
    const sync = async (from: string, to: string) => {
      const options = ['--delete', '--remember', '--json', '-e', command, '--remote-command', at('deltahop')];
      const { code, out, err } = await deltahop(['sync', ...options, from, to], { XDG_STATE_HOME: at('state-here') });
      assert.is(code, 0, err);
      return JSON.parse(out.trimEnd().split('\n').at(-1) ?? '') as {
        sender: Record<string, number>;
        receiver: Record<string, number>;
      };
    };
    const edit = (path: string, seed: number): void => {
      const image = readFileSync(path);
      noise(seed, 100).copy(image, 500_000 + seed * 1000);
      writeFileSync(path, image);
      utimesSync(path, 1_600_000_000 + seed, 1_600_000_000 + seed);
    };
    await sync(`${at('here')}/`, there);
    edit(at('here/image'), 1);
    const pushed = await sync(`${at('here')}/`, there);
    assert.equal([pushed.sender['basisRefused'], pushed.receiver['signatureBytes']], [0, 0]);
    assert.is(difference(at('here'), at('there')), '');
    // The first pull teaches the other side what is here.
    await sync(there, `${at('here')}/`);
    edit(at('there/image'), 2);
    const pulled = await sync(there, `${at('here')}/`);
    assert.equal([pulled.sender['basisRefused'], pulled.receiver['signatureBytes']], [0, 0]);
    assert.is(difference(at('there'), at('here')), '');
  }),
);

test.run();
