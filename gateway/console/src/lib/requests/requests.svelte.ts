import { RequestState, type RequestRecord } from '#gen/mlxmesh/telemetry/v1/live_pb.ts';
import { live, Topic } from '#lib/live/index.ts';
import { startMs } from './record.ts';

/** As many are kept in the page; the gateways have more. */
export const MAX_REQUESTS = 1000;

/** The recent requests, live, the newest first. */
export class RequestsState {
  list = $state.raw<readonly RequestRecord[]>([]);
  synced = $state(false);
  problem = $state('');

  #byId = new Map<string, { record: RequestRecord; start: number }>();
  #frame = 0;

  /** Follows the requests until the returned function is called. */
  follow(): () => void {
    const stop = live.watch(Topic.REQUESTS, {
      onStart: () => this.#byId.clear(),
      onNews: (news) => news.case === 'requests' && this.#take(news.value.requests),
      onState: (state) => {
        this.synced ||= state.synced;
        this.problem = state.failure?.message ?? '';
      },
    });
    return () => {
      cancelAnimationFrame(this.#frame);
      this.#frame = 0;
      stop();
    };
  }

  #take(changed: readonly RequestRecord[]): void {
    for (const record of changed) this.#byId.set(record.id, { record, start: startMs(record) });
    // The screen is drawn once a frame, however often something comes.
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#show();
    });
  }

  #show(): void {
    const ordered = [...this.#byId.values()].sort((a, b) => b.start - a.start || (a.record.id < b.record.id ? 1 : -1));
    for (const { record } of ordered.slice(MAX_REQUESTS)) this.#byId.delete(record.id);
    this.list = ordered.slice(0, MAX_REQUESTS).map(({ record }) => record);
  }
}

export interface RequestFilter {
  model: string;
  protocol: string;
  /** running, ended or failed; empty for all. */
  state: string;
  engine: string;
  /** Part of a request id or a principal. */
  text: string;
}

/** Whether a request passes a filter. */
export function passes(record: RequestRecord, filter: RequestFilter): boolean {
  const text = filter.text.trim().toLowerCase();
  return (
    (!filter.model || record.model === filter.model) &&
    (!filter.protocol || record.protocol === filter.protocol) &&
    (!filter.engine || record.engineId === filter.engine) &&
    hasState(record, filter.state) &&
    (!text || `${record.requestId} ${record.principal} ${record.traceId}`.toLowerCase().includes(text))
  );
}

function hasState(record: RequestRecord, state: string): boolean {
  if (state === 'running') return record.state === RequestState.RUNNING;
  if (state === 'ended') return record.state === RequestState.ENDED && !record.failure;
  return state !== 'failed' || record.failure !== undefined;
}
