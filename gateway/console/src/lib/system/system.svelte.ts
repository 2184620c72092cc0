import type { GetSystemResponse, Process } from '#gen/mlxmesh/telemetry/v1/system_pb.ts';
import { live, Topic } from '#lib/live/index.ts';

/** The hosts and processes, live. */
export class SystemState {
  system = $state.raw<GetSystemResponse>();
  problem = $state('');

  follow(): () => void {
    return live.watch(Topic.SYSTEM, {
      onNews: (news) => {
        if (news.case === 'system') this.system = news.value;
      },
      onState: (state) => (this.problem = state.failure?.message ?? ''),
    });
  }
}

/** What names a process on this page. */
export function keyOf({ service, instanceId }: Pick<Process, 'service' | 'instanceId'>): string {
  return `${service}/${instanceId}`;
}
