import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { formatAddress, isLoopback, parseAddress, permittedAddress } from '../../../src/agent/peers.js';
import { isDeltahopError } from '../../../src/errors.js';

const test = suite('agent/peers');

test('addresses are read', () => {
  assert.equal(parseAddress('edge-b:7400'), { host: 'edge-b', port: 7400 });
  assert.equal(parseAddress('10.0.0.2:0'), { host: '10.0.0.2', port: 0 });
  assert.equal(parseAddress('[fe80::1%eth0]:65535'), { host: 'fe80::1%eth0', port: 65535 });
  assert.equal(parseAddress('[::]:1'), { host: '::', port: 1 });
});

test('what is no address is refused', () => {
  const bad = [
    '',
    ':1',
    'host',
    'host:',
    'host:65536',
    'host:-1',
    'host:1x',
    '::1:7400',
    '[::1]',
    '[host]:1',
    '[1.2.3]:1',
  ];
  for (const text of [...bad, 'a b:1', '-x:1', 'ho\nst:1', `${'a'.repeat(254)}:1`]) {
    assert.throws(
      () => parseAddress(text),
      (error: unknown) => isDeltahopError(error, 'DELTAHOP_E_INVALID_ARGUMENT'),
      text,
    );
  }
});

test('what is read is written the same', () => {
  const host = fc.oneof(fc.ipV4(), fc.ipV6(), fc.domain());
  fc.assert(
    fc.property(host, fc.integer({ min: 0, max: 65535 }), (name, port) => {
      assert.equal(parseAddress(formatAddress({ host: name, port })), { host: name, port });
    }),
  );
});

test('loopback is what never leaves the machine', () => {
  for (const ip of ['127.0.0.1', '127.8.9.1', '::1', '::ffff:127.0.0.1']) assert.ok(isLoopback(ip), ip);
  for (const ip of ['128.0.0.1', '0.0.0.0', '::', '10.127.0.1', '::2', 'fe80::1']) assert.not(isLoopback(ip), ip);
});

test('without --insecure only this machine is permitted', async () => {
  assert.equal(await permittedAddress({ host: '127.0.0.1', port: 1 }, false), { host: '127.0.0.1', port: 1 });
  assert.equal(await permittedAddress({ host: '192.0.2.1', port: 1 }, true), { host: '192.0.2.1', port: 1 });
  assert.ok(isLoopback((await permittedAddress({ host: 'localhost', port: 1 }, false)).host));
  for (const host of ['192.0.2.1', '0.0.0.0', '::']) {
    try {
      await permittedAddress({ host, port: 1 }, false);
      assert.unreachable(host);
    } catch (error) {
      assert.ok(isDeltahopError(error, 'DELTAHOP_E_INSECURE_REFUSED'), String(error));
      assert.match(error.message, /--insecure/);
    }
  }
});

test.run();
