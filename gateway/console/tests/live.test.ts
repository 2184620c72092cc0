import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { StreamEvents } from '#lib/live/connection.ts';
import { Live } from '#lib/live/live.svelte.ts';
import * as messages from '#lib/live/messages.ts';
import { Topic } from '#lib/live/index.ts';

interface Opened {
  url: string;
  events: StreamEvents;
  closed: boolean;
}

let opened: Opened[];
let live: Live;

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, 'random').mockReturnValue(0.5);
  vi.stubGlobal('fetch', () => Promise.reject(new TypeError('no network')));
  opened = [];
  live = new Live(
    (url, events) => {
      const stream = { url, events, closed: false };
      opened.push(stream);
      return () => (stream.closed = true);
    },
    () => Promise.resolve(messages),
  );
});

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

const settle = (ms = 0) => vi.advanceTimersByTimeAsync(ms);
const request = (at: number) => JSON.parse(new URL(opened[at]?.url ?? '', 'http://x').searchParams.get('message') ?? '{}');
const event = (sequence: number) => ({ event: { logId: 'log', sequence: String(sequence) } });

it('opens one stream for all topics', async () => {
  live.watch(Topic.MESH, { onNews: () => {} });
  live.watch(Topic.EVENTS, { onNews: () => {} });
  await settle();
  expect(opened).toHaveLength(1);
  expect(opened[0]?.url).toMatch(/^\/mlxmesh\.telemetry\.v1\.LiveService\/Watch\?message=/);
  expect(request(0)).toEqual({ topics: ['TOPIC_MESH', 'TOPIC_EVENTS'] });
});

it('gives news to the readers of its topic only', async () => {
  const mesh = vi.fn();
  const system = vi.fn();
  live.watch(Topic.MESH, { onNews: mesh });
  live.watch(Topic.SYSTEM, { onNews: system });
  await settle();
  opened[0]?.events.onOpen();
  opened[0]?.events.onMessage({ mesh: {} });
  expect(mesh).toHaveBeenCalledOnce();
  expect(system).not.toHaveBeenCalled();
});

it('reports the state of a topic to its readers', async () => {
  const onState = vi.fn();
  live.watch(Topic.JOBS, { onNews: () => {}, onState });
  await settle();
  opened[0]?.events.onMessage({ topic: { topic: 'TOPIC_JOBS', synced: true } });
  expect(onState).toHaveBeenCalledWith(expect.objectContaining({ synced: true }));
});

it('connects again after a loss, later each time, and begins anew', async () => {
  const onStart = vi.fn();
  live.watch(Topic.MESH, { onStart, onNews: () => {} });
  await settle();
  opened[0]?.events.onOpen();
  opened[0]?.events.onEnd();
  expect(live.state).toBe('waiting');
  await settle(499);
  expect(opened).toHaveLength(1);
  await settle(1);
  expect(opened).toHaveLength(2);
  opened[1]?.events.onEnd({ message: 'draining' });
  expect(live.problem).toBe('draining');
  await settle(999);
  expect(opened).toHaveLength(2);
  await settle(1);
  opened[2]?.events.onOpen();
  expect(live.state).toBe('live');
  expect(onStart).toHaveBeenCalledTimes(2);
});

it('resumes events after the last one', async () => {
  const onStart = vi.fn();
  live.watch(Topic.EVENTS, { onStart, onNews: () => {} });
  await settle();
  opened[0]?.events.onOpen();
  opened[0]?.events.onMessage(event(41));
  opened[0]?.events.onEnd();
  await settle(500);
  expect(request(1)).toEqual({ topics: ['TOPIC_EVENTS'], afterEvent: '41', eventLogId: 'log' });
  opened[1]?.events.onOpen();
  expect(onStart).toHaveBeenCalledOnce();
});

it('closes the stream a while after its last reader has gone', async () => {
  const stop = live.watch(Topic.MESH, { onNews: () => {} });
  await settle();
  stop();
  await settle(2_999);
  expect(opened[0]?.closed).toBe(false);
  await settle(1);
  expect(opened[0]?.closed).toBe(true);
  expect(live.state).toBe('idle');
});

it('opens nothing new for a reader that comes back at once to a topic', async () => {
  live.watch(Topic.MESH, { onNews: () => {} })();
  live.watch(Topic.MESH, { onNews: () => {} });
  await settle(5_000);
  expect(opened.filter((one) => !one.closed)).toHaveLength(1);
});

it('takes no news of a kind that it does not know', async () => {
  live.watch(Topic.MESH, { onNews: () => {} });
  await settle();
  expect(() => opened[0]?.events.onMessage({ somethingNew: {} })).not.toThrow();
});
