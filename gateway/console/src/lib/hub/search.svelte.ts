import { HubFormat, HubSort, type HubModel } from '#gen/mlxmesh/model/v1/hub_pb.ts';
import { isAborted, toApiError } from '#lib/api/index.ts';
import { hub } from '#lib/models/clients.ts';

const DEBOUNCE_MS = 300;
const PAGE_SIZE = 24;

interface Query {
  text: string;
  author: string;
  sort: HubSort;
  format: HubFormat;
}

/** A search of the hub that follows what is typed. */
export class HubSearch {
  text = $state('');
  author = $state('');
  sort = $state(HubSort.UNSPECIFIED);
  format = $state(HubFormat.MLX);

  models = $state.raw<HubModel[]>([]);
  busy = $state(false);
  /** Why there is no answer. */
  problem = $state('');
  nextPageToken = $state('');
  #running: AbortController | undefined;

  /** Searches soon for what is asked now; made for `$effect(() => search.follow())`. */
  follow(): () => void {
    const query = this.#query();
    const timer = setTimeout(() => void this.#search(query, ''), DEBOUNCE_MS);
    return () => {
      clearTimeout(timer);
      this.#running?.abort();
    };
  }

  again(): void {
    void this.#search(this.#query(), '');
  }

  more(): void {
    void this.#search(this.#query(), this.nextPageToken);
  }

  #query(): Query {
    return { text: this.text.trim(), author: this.author.trim(), sort: this.sort, format: this.format };
  }

  async #search(query: Query, pageToken: string): Promise<void> {
    this.#running?.abort();
    const running = (this.#running = new AbortController());
    this.busy = true;
    try {
      const page = await hub.searchHub({ ...query, pageSize: PAGE_SIZE, pageToken }, { signal: running.signal });
      const known = new Set(pageToken ? this.models.map((one) => one.repoId) : []);
      const found = page.models.filter((one) => !known.has(one.repoId));
      this.models = pageToken ? [...this.models, ...found] : found;
      this.nextPageToken = page.nextPageToken;
      this.problem = '';
    } catch (thrown) {
      if (running.signal.aborted || isAborted(thrown)) return;
      this.problem = toApiError(thrown).message;
      if (!pageToken) this.models = [];
    } finally {
      if (running === this.#running) this.busy = false;
    }
  }
}
