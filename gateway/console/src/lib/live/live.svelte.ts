import type { Topic, TopicState, WatchResponse } from '#gen/mlxmesh/telemetry/v1/live_pb.ts';
import { session } from '#lib/session/session.svelte.ts';
import { openEventSource, type OpenStream } from './connection.ts';
import type { EventPosition } from './messages.ts';

/** What a page does with the news of its topic. */
export interface TopicReader {
  /** The present state follows, from its beginning: forget what was known. */
  onStart?(): void;
  onNews(news: WatchResponse['news']): void;
  /** The topic's state was sent whole, or its service is away. */
  onState?(state: TopicState): void;
}

export type LiveState = 'idle' | 'connecting' | 'live' | 'waiting';

const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 10_000;
/** Topics of a page that was left are kept this long, so that going back and forth opens nothing. */
const LINGER_MS = 3_000;

/** The contracts of all topics are large: the first paint does without them. */
type Messages = typeof import('./messages.ts');

/** The console's one stream of LiveService.Watch, shared by all pages. */
export class Live {
  state = $state<LiveState>('idle');
  /** Why there is no stream at present. */
  problem = $state('');

  #readers = new Map<Topic, Set<TopicReader>>();
  #watched = new Set<Topic>();
  #close: (() => void) | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;
  #lastEvent: EventPosition | undefined;
  /** Counts connections, so that one that was overtaken while it was prepared is dropped. */
  #connections = 0;

  constructor(
    private readonly open: OpenStream = openEventSource,
    private readonly load: () => Promise<Messages> = () => import('./messages.ts'),
  ) {}

  /** Reads a topic until the returned function is called; made for `$effect(() => live.watch(...))`. */
  watch(topic: Topic, reader: TopicReader): () => void {
    const readers = this.#readers.get(topic) ?? new Set();
    readers.add(reader);
    this.#readers.set(topic, readers);
    // A reader needs the present state, which only the beginning of a stream has.
    this.#schedule(0);
    return () => {
      readers.delete(reader);
      if (readers.size > 0) return;
      this.#readers.delete(topic);
      if (this.#timer === undefined) this.#schedule(LINGER_MS);
    };
  }

  #schedule(delayMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.#connect();
    }, delayMs);
  }

  async #connect(): Promise<void> {
    this.#connections += 1;
    this.#close?.();
    this.#close = undefined;
    this.#watched = new Set(this.#readers.keys());
    if (this.#watched.size === 0) {
      this.state = 'idle';
      this.#lastEvent = undefined;
      return;
    }
    this.state = this.#failures > 0 ? 'waiting' : 'connecting';
    const connection = ++this.#connections;
    const messages = await this.load().catch(() => undefined);
    if (connection !== this.#connections) return;
    if (!messages) return this.#retry('A part of the console could not be loaded.');
    this.#close = this.open(messages.watchUrl([...this.#watched], this.#lastEvent), {
      onOpen: () => this.#begin(messages),
      onMessage: (json) => this.#take(messages, messages.parse(json)),
      onEnd: (error) => this.#retry(error?.message ?? ''),
    });
  }

  #begin({ EVENTS }: Messages): void {
    this.state = 'live';
    this.problem = '';
    this.#failures = 0;
    for (const [topic, readers] of this.#readers) {
      // Events resume after the last one instead.
      if (topic === EVENTS && this.#lastEvent) continue;
      for (const reader of readers) reader.onStart?.();
    }
  }

  #take({ TOPIC_OF }: Messages, { news }: WatchResponse): void {
    if (news.case === undefined) return;
    if (news.case === 'topic') {
      for (const reader of this.#readers.get(news.value.topic) ?? []) reader.onState?.(news.value);
      return;
    }
    if (news.case === 'event') this.#lastEvent = { sequence: news.value.sequence, logId: news.value.logId };
    const topic = TOPIC_OF[news.case];
    if (topic === undefined) return;
    for (const reader of this.#readers.get(topic) ?? []) reader.onNews(news);
  }

  #retry(problem: string): void {
    this.#close = undefined;
    this.state = 'waiting';
    this.problem = problem || 'The connection to the gateway was lost.';
    const delay = Math.min(FIRST_RETRY_MS * 2 ** this.#failures, MAX_RETRY_MS);
    this.#failures += 1;
    // The reason of a refusal is not readable here; the session knows whether it has ended.
    if (this.#failures > 1) void session.load();
    this.#schedule(delay * (0.75 + Math.random() / 2));
  }
}

export const live = new Live();
