import { Paged, type ListPage } from '#lib/paged.svelte.ts';
import { JobsService } from './jobs_service.svelte.ts';

const SETTLE_MS = 500;

/** A list of the jobs service, read again when jobs have changed; empty while nothing has used the service. */
export function changing<T>(read: (pageToken: string) => Promise<ListPage<T>>): Paged<T> {
  const service = new JobsService();
  const list = new Paged<T>((pageToken) => (service.serves ? read(pageToken) : Promise.resolve({ items: [], nextPageToken: '' })));
  $effect(() => service.start());
  $effect(() => {
    if (!service.told) return;
    void service.serves;
    const timer = setTimeout(() => void list.load(), service.changes ? SETTLE_MS : 0);
    return () => clearTimeout(timer);
  });
  return list;
}
