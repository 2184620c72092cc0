import { SvelteMap } from 'svelte/reactivity';
import type { Model } from '#gen/mlxmesh/model/v1/model_pb.ts';
import { live, Topic, type TopicReader } from '#lib/live/index.ts';

/** The models of the mesh, as they are now. */
class Catalogue implements TopicReader {
  /** Whether all models are known. */
  isComplete = $state(false);
  /** Why nothing is known of them at present. */
  problem = $state('');
  #models = new SvelteMap<string, Model>();
  /** What was known before the stream began again, and has not come since. */
  #stale = new Set<string>();

  /** Sorted by name. */
  list = $derived([...this.#models.values()].toSorted((a, b) => a.name.localeCompare(b.name)));

  get(name: string): Model | undefined {
    return this.#models.get(name);
  }

  /** Follows the catalogue until the returned function is called. */
  watch(): () => void {
    return live.watch(Topic.MODELS, this);
  }

  onStart(): void {
    this.#stale = new Set(this.#models.keys());
  }

  onNews(news: Parameters<TopicReader['onNews']>[0]): void {
    if (news.case !== 'model') return;
    const change = news.value.event;
    if (change.case === 'model') {
      this.#stale.delete(change.value.name);
      this.#models.set(change.value.name, change.value);
    } else if (change.case === 'removedName') this.#models.delete(change.value);
    else if (change.case === 'synced') this.#completed();
  }

  onState(state: Parameters<NonNullable<TopicReader['onState']>>[0]): void {
    this.problem = state.failure?.message ?? '';
    if (state.synced) this.#completed();
  }

  #completed(): void {
    for (const name of this.#stale) this.#models.delete(name);
    this.#stale.clear();
    this.isComplete = true;
  }
}

export const catalogue = new Catalogue();
