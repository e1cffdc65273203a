/**
 * The probe's user: keeps ONE TCP connection on which it counts upwards, and puts questions on connections of their own.
 *
 *   node probe-client.js HOST PORT
 *
 * A line on stdin is a question (`state`, `verify`, ...), put to the probe; `report` asks for what the counting saw. Each
 * gets one JSON line on stdout, in order. It ends when stdin closes.
 */
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

/** What the counting saw so far. */
export interface ProbeReport {
  /** Numbers sent. */
  sent: number;
  /** Numbers that came back. */
  answered: number;
  /** Answers that were not the next one, or that the service had not counted as the next one. */
  outOfOrder: number;
  /** Whether the first and only connection is still there. */
  connected: boolean;
  /** The longest time between two answers since the last report. */
  longestGapMs: number;
}

const pauseMs = 10;
const connectPauseMs = 100;
/** Longer than any stop of the service that a test waits for. */
const questionDeadlineMs = 60_000;

const [host = '', port = ''] = process.argv.slice(2);
const report: ProbeReport = { sent: 0, answered: 0, outOfOrder: 0, connected: false, longestGapMs: 0 };
let lastAnswerAt = performance.now();

function eachLine(socket: Socket, onLine: (line: string) => void): void {
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    const lines = (text + chunk).split('\n');
    text = lines.pop() ?? '';
    for (const line of lines) onLine(line);
  });
}

/** The one connection, once the probe is there: a virtual machine has to boot before. */
async function connected(): Promise<Socket> {
  for (;;) {
    const socket = connect(Number(port), host);
    socket.on('error', () => {}); // 'close' follows
    const isUp = await new Promise((resolve) => {
      socket.once('connect', () => resolve(true));
      socket.once('close', () => resolve(false));
    });
    if (isUp) return socket;
    await sleep(connectPauseMs);
  }
}

/** Sends numbers without waiting for their answers, so that some are always under way. */
async function count(): Promise<void> {
  const socket = await connected();
  socket.setNoDelay(true);
  socket.on('close', () => {
    report.connected = false;
  });
  report.connected = true;
  lastAnswerAt = performance.now();
  eachLine(socket, (line) => {
    const expected = `echo ${report.answered} ${report.answered}`;
    if (line !== expected) report.outOfOrder++;
    report.answered++;
    const now = performance.now();
    report.longestGapMs = Math.max(report.longestGapMs, Math.round(now - lastAnswerAt));
    lastAnswerAt = now;
  });
  while (report.connected) {
    socket.write(`echo ${report.sent++}\n`);
    await sleep(pauseMs);
  }
}

function ask(question: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(Number(port), host);
    const timer = setTimeout(() => socket.destroy(new Error('no answer in time')), questionDeadlineMs);
    const settle = (answer: string): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    socket.on('error', (error) => settle(JSON.stringify({ error: error.message })));
    socket.on('end', () => settle(JSON.stringify({ error: 'the service closed the connection' })));
    eachLine(socket, settle);
    socket.write(`${question}\n`);
  });
}

void count();
for await (const question of createInterface({ input: process.stdin })) {
  let answer: string;
  if (question === 'report') {
    // A gap that still lasts is one.
    const gapMs = Math.max(report.longestGapMs, Math.round(performance.now() - lastAnswerAt));
    answer = JSON.stringify({ ...report, longestGapMs: gapMs });
    report.longestGapMs = 0;
  } else {
    answer = await ask(question);
  }
  process.stdout.write(`${answer}\n`);
}
process.exit(0);
