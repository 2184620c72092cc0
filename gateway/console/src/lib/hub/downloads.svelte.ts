import { SvelteMap } from 'svelte/reactivity';
import { DownloadState, type Download } from '#gen/mlxmesh/model/v1/hub_pb.ts';
import { live, Topic, type TopicReader } from '#lib/live/index.ts';

/** The downloads of models, as they are now. */
class Downloads implements TopicReader {
  isComplete = $state(false);
  problem = $state('');
  #downloads = new SvelteMap<string, Download>();
  #stale = new Set<string>();

  /** The newest first. */
  list = $derived([...this.#downloads.values()].toSorted((a, b) => Number(createdAt(b) - createdAt(a))));
  /** How many wait or run. */
  active = $derived(this.list.filter((one) => isActive(one.state)).length);

  watch(): () => void {
    return live.watch(Topic.DOWNLOADS, this);
  }

  /** The newest one of a repository that has not completed. */
  of(repoId: string, file: string): Download | undefined {
    return this.list.find((one) => one.source?.repoId === repoId && one.source.file === file && one.state !== DownloadState.COMPLETED);
  }

  onStart(): void {
    this.#stale = new Set(this.#downloads.keys());
  }

  onNews(news: Parameters<TopicReader['onNews']>[0]): void {
    if (news.case !== 'downloads') return;
    for (const download of news.value.downloads) {
      this.#stale.delete(download.downloadId);
      this.#downloads.set(download.downloadId, download);
    }
    for (const id of news.value.removedIds) this.#downloads.delete(id);
  }

  onState(state: Parameters<NonNullable<TopicReader['onState']>>[0]): void {
    this.problem = state.failure?.message ?? '';
    if (!state.synced) return;
    for (const id of this.#stale) this.#downloads.delete(id);
    this.#stale.clear();
    this.isComplete = true;
  }
}

export function isActive(state: DownloadState): boolean {
  return state === DownloadState.WAITING || state === DownloadState.RUNNING;
}

function createdAt(download: Download): bigint {
  const time = download.createTime;
  return time ? time.seconds * 1_000_000_000n + BigInt(time.nanos) : 0n;
}

export const downloads = new Downloads();
