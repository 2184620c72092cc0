import type { LogRecord } from '#gen/mlxmesh/control/v1/process_pb.ts';
import { SystemService } from '#gen/mlxmesh/telemetry/v1/system_pb.ts';
import { clientOf, isAborted, toApiError } from '#lib/api/index.ts';

/** As many as a process keeps itself. */
export const MAX_RECORDS = 2000;
const TAIL = 500;

/** The log of one process, followed. */
export class LogState {
  records = $state.raw<readonly LogRecord[]>([]);
  dropped = $state(0n);
  problem = $state('');
  following = $state(false);

  /** Reads the log until the returned function is called. */
  follow(service: string, instanceId: string, minLevel: string): () => void {
    const ending = new AbortController();
    this.records = [];
    this.dropped = 0n;
    this.problem = '';
    void this.#read(service, instanceId, minLevel, ending.signal);
    return () => ending.abort();
  }

  async #read(service: string, instanceId: string, minLevel: string, signal: AbortSignal): Promise<void> {
    this.following = true;
    try {
      const responses = clientOf(SystemService).watchLog({ service, instanceId, minLevel, tail: TAIL, follow: true }, { signal });
      for await (const { records, dropped } of responses) {
        if (signal.aborted) return;
        this.records = [...this.records, ...records].slice(-MAX_RECORDS);
        this.dropped += dropped;
      }
    } catch (thrown) {
      if (!signal.aborted && !isAborted(thrown)) this.problem = toApiError(thrown).message;
    } finally {
      if (!signal.aborted) this.following = false;
    }
  }
}
