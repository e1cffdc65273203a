import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { causeInCriuLog, causeInLxcLog, tooOld } from '../../../src/workload/lxc/criu.js';
import { watchedInodes } from '../../../src/workload/lxc/obstacles.js';

test('a new kernel needs CRIU 4.2, an older one 4.0', () => {
  assert.match(tooOld('4.1.1', '6.18.44-amd64') ?? '', /4\.1\.1.*6\.18\.44.*4\.2 or later/);
  assert.is(tooOld('4.2', '6.16'), null);
  assert.is(tooOld('4.2.1', '6.18.44-amd64'), null);
  assert.is(tooOld('4.10', '6.18.0'), null);
  assert.is(tooOld('4.1.1', '6.1.0-40-amd64'), null);
  assert.is.not(tooOld('3.17.1', '6.1.0-40-amd64'), null);
});

const harmless = "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n";

test('the cause of a failure is the first error that is one', () => {
  assert.is(causeInCriuLog(harmless), null);
  assert.is(causeInCriuLog(''), null);
  const log = `${harmless}Warn  (criu/net.c:534): net: The eth0 veth is in an external netns
(00.012345) Error (criu/sockets.c:100): Can't dump socket of family 40
(00.012399) Error (criu/cr-dump.c:1780): Dump files (pid: 100) failed with -1
(00.012400) Error (criu/cr-dump.c:2128): Dumping FAILED.
`;
  assert.is(causeInCriuLog(log), "CRIU: Can't dump socket of family 40");
});

test('a known error is told in words, wherever it stands', () => {
  const inotify = `${harmless}Error (criu/fsnotify.c:284): fsnotify: Handle 0x44:0x21 cannot be opened
Error (criu/fsnotify.c:300): fsnotify: \tCan't dump that handle
`;
  assert.match(causeInCriuLog(inotify) ?? '', /inotify.*CRIU: fsnotify/);
  const size = 'Error (criu/files-reg.c:2217): File usr/bin/x has bad size 12 (expect 13)\n';
  assert.match(causeInCriuLog(size) ?? '', /not the one that was open.*bad size 12/);
  const space = 'pie: 1: Error (criu/page-xfer.c:1): Unable to write: No space left on device\n';
  assert.match(causeInCriuLog(space) ?? '', /disk is full/);
  const restored = '(00.1)     12: Error (criu/files.c:1): Unexpected EOF on (files.img)\n';
  assert.match(causeInCriuLog(restored) ?? '', /image is incomplete/);
});

test('LXC’s log tells why nothing started', () => {
  const line = (level: string, place: string, message: string) =>
    `lxc-start web 20261122193045.123 ${level.padEnd(8)} start - ../src/lxc/${place} - ${message}\n`;
  const log = [
    line('INFO', 'start.c:lxc_init:881', 'Container "web" is initialized'),
    line('ERROR', 'start.c:start:2197', 'No such file or directory - Failed to exec "/no/such/program"'),
    line('ERROR', 'sync.c:sync_wait:34', 'An error occurred in another process (expected sequence number 7)'),
    line('ERROR', 'lxc_start.c:main:306', 'The container failed to start'),
  ].join('');
  assert.is(causeInLxcLog(log), 'LXC: No such file or directory - Failed to exec "/no/such/program"');
  assert.is(causeInLxcLog(line('INFO', 'a.c:b:1', 'all is well')), null);
});

test('the inodes that an inotify file watches', () => {
  const fdinfo = `pos:\t0
flags:\t02004000
inotify wd:2 ino:1f8a sdev:2b mask:2 ignored_mask:0 fhandle-bytes:c fhandle-type:1 f_handle:8a1f000000000000
inotify wd:1 ino:ffffffffffff sdev:2b mask:2 ignored_mask:0 fhandle-bytes:c fhandle-type:1 f_handle:8a1f0000
`;
  assert.equal(watchedInodes(fdinfo), new Set([0x1f8an, 0xffffffffffffn]));
  assert.is(watchedInodes('pos:\t0\nflags:\t02004000\n').size, 0);
});

test.run();
