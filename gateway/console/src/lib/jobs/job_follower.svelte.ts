import { JobService, type Job, type SubmitJobRequest, type WatchJobResponse } from '#gen/mlxmesh/job/v1/job_pb.ts';
import { Code, ConnectError } from '@connectrpc/connect';
import { clientOf, toApiError, type ApiError } from '#lib/api/index.ts';

const RETRY_MS = 1_000;
/** What is shown of an output; longer ones are cut at the beginning. */
const MAX_CHARACTERS = 200_000;

/** One job with its attempts, and what it generates as it comes. */
export class JobFollower {
  job = $state.raw<Job | undefined>();
  submitted = $state.raw<SubmitJobRequest | undefined>();
  text = $state('');
  error = $state.raw<ApiError | undefined>();
  #sequence = 0n;
  #attempt = -1n;

  constructor(private readonly jobId: string) {}

  /** Follows until the returned function is called; made for `$effect(() => follower.start())`. */
  start(): () => void {
    const abort = new AbortController();
    void this.#follow(abort.signal);
    return () => abort.abort();
  }

  /** Reads the job with its attempts and its result. */
  async load(): Promise<void> {
    const { job, submitted } = await clientOf(JobService).getJob({ jobId: this.jobId, withWork: true });
    this.job = job;
    this.submitted = submitted;
  }

  async #follow(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.load();
        const watch = clientOf(JobService).watchJob({ jobId: this.jobId, afterSequence: this.#sequence }, { signal });
        for await (const message of watch) await this.#take(message);
        await this.load();
        this.error = undefined;
        return;
      } catch (thrown) {
        if (signal.aborted) return;
        this.error = toApiError(thrown);
        if ([Code.NotFound, Code.InvalidArgument, Code.PermissionDenied].includes(ConnectError.from(thrown).code)) return;
      }
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
  }

  async #take({ sequence, change }: WatchJobResponse): Promise<void> {
    this.#sequence = sequence;
    this.error = undefined;
    if (change.case === 'job') {
      const { attempt, state } = change.value;
      const isNew = attempt !== this.#attempt || state !== this.job?.state;
      this.#attempt = attempt;
      if (isNew) await this.load();
      else this.job = { ...change.value, attempts: this.job?.attempts ?? [] };
    } else if (change.case === 'output' && change.value.event.case === 'delta') {
      this.text = (this.text + change.value.event.value.text).slice(-MAX_CHARACTERS);
    } else if (change.case === 'output' && change.value.event.case === 'started') {
      this.text = ''; // an attempt begins its output again
    }
  }
}
