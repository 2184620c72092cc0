import { toApiError, type ApiError } from '#lib/api/errors.ts';
import { live, Topic } from './index.ts';

const SETTLE_MS = 250;

/** A list that is read again when an event tells that it has changed. */
export class Listed<T> {
  items = $state.raw<T[] | undefined>();
  error = $state.raw<ApiError | undefined>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `prefix` is how the names of its events begin in the contract, such as rollout. */
  constructor(
    private readonly read: () => Promise<T[]>,
    private readonly prefix: string,
  ) {}

  /** Reads the list, and again after its events; made for `$effect(() => listed.start())`. */
  start(): () => void {
    void this.load();
    const stop = live.watch(Topic.EVENTS, {
      onNews: (news) => {
        if (news.case !== 'event' || news.value.item.case !== 'event') return;
        if (news.value.item.value.payload.case?.startsWith(this.prefix)) this.#soon();
      },
    });
    return () => {
      clearTimeout(this.#timer);
      stop();
    };
  }

  async load(): Promise<void> {
    try {
      this.items = await this.read();
      this.error = undefined;
    } catch (thrown) {
      this.error = toApiError(thrown);
    }
  }

  /** Several events at once are one change. */
  #soon(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.load(), SETTLE_MS);
  }
}
