import { toApiError, type ApiError } from '#lib/api/errors.ts';

/** A page of a list, as every List method returns it. */
export interface ListPage<T> {
  items: T[];
  nextPageToken: string;
}

/** A list that is read page by page. */
export class Paged<T> {
  items = $state.raw<T[] | undefined>();
  error = $state.raw<ApiError | undefined>();
  busy = $state(false);
  #next = $state('');
  #reads = 0;

  constructor(private readonly read: (pageToken: string) => Promise<ListPage<T>>) {}

  get hasMore(): boolean {
    return this.#next !== '';
  }

  /** Reads the first page, instead of what is there. */
  load(): Promise<void> {
    return this.#read('');
  }

  /** Reads the next page, behind what is there. */
  more(): Promise<void> {
    return this.#read(this.#next);
  }

  async #read(pageToken: string): Promise<void> {
    const read = ++this.#reads;
    this.busy = true;
    try {
      const page = await this.read(pageToken);
      if (read !== this.#reads) return; // a later one has begun
      this.items = pageToken ? [...(this.items ?? []), ...page.items] : page.items;
      this.#next = page.nextPageToken;
      this.error = undefined;
    } catch (thrown) {
      if (read === this.#reads) this.error = toApiError(thrown);
    } finally {
      if (read === this.#reads) this.busy = false;
    }
  }
}
