import type { GetMeshStatusResponse, Instance } from '#gen/mlxmesh/telemetry/v1/telemetry_pb.ts';
import { live, Topic } from '#lib/live/index.ts';

const SAMPLES = 60;

/** The processes of the mesh, live, with a short history of each engine's speed. */
export class MeshState {
  status = $state.raw<GetMeshStatusResponse>();
  /** Why nothing comes at present. */
  problem = $state('');
  /** Tokens per second by engine, the oldest first. */
  rates = $state.raw<ReadonlyMap<string, readonly number[]>>(new Map());

  #next: GetMeshStatusResponse | undefined;
  #frame = 0;

  /** Follows the mesh until the returned function is called. */
  follow(): () => void {
    const stop = live.watch(Topic.MESH, {
      onNews: (news) => news.case === 'mesh' && this.#take(news.value),
      onState: (state) => (this.problem = state.failure?.message ?? ''),
    });
    return () => {
      cancelAnimationFrame(this.#frame);
      this.#frame = 0;
      stop();
    };
  }

  // The screen is drawn once a frame, however often the mesh tells something.
  #take(status: GetMeshStatusResponse): void {
    this.#next = status;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.#next) this.#show(this.#next);
    });
  }

  #show(status: GetMeshStatusResponse): void {
    const rates = new Map<string, readonly number[]>();
    for (const { service, instanceId, load } of status.instances) {
      if (service !== 'engine') continue;
      const before = this.rates.get(instanceId) ?? [];
      rates.set(instanceId, [...before.slice(-(SAMPLES - 1)), load?.tokensPerSecond ?? 0]);
    }
    this.rates = rates;
    this.status = status;
  }
}

/** What an engine serves: model@version. */
export function modelOf(engine: Instance): string {
  const { model = '', version = '' } = engine.metadata;
  return version ? `${model}@${version}` : model;
}
