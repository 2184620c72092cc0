import { JobKind, JobState, JobService, type Job } from '#gen/mlxmesh/job/v1/job_pb.ts';
import type { TopicState } from '#gen/mlxmesh/telemetry/v1/live_pb.ts';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import { clientOf, toApiError, type ApiError } from '#lib/api/index.ts';
import { live, Topic } from '#lib/live/index.ts';

const PAGE = 200;

/** Which jobs are listed; 0 and empty are all. */
export interface JobFilter {
  state: JobState;
  kind: JobKind;
  queue: string;
}

/** Jobs by a filter, the newest first; what changes is told by the live stream. */
export class JobList {
  filter = $state.raw<JobFilter>({ state: JobState.UNSPECIFIED, kind: JobKind.UNSPECIFIED, queue: '' });
  error = $state.raw<ApiError | undefined>();
  loaded = $state(false);
  busy = $state(false);
  #jobs = $state.raw(new Map<string, Job>());
  #next = $state('');
  #reads = 0;
  #serves = false;

  readonly rows = $derived([...this.#jobs.values()].sort(byAge));

  get hasMore(): boolean {
    return this.#next !== '';
  }

  /** Follows the jobs until the returned function is called; made for `$effect(() => jobs.start())`. */
  start(): () => void {
    return live.watch(Topic.JOBS, {
      onState: (state) => this.#begin(state),
      onNews: (news) => {
        if (news.case !== 'jobs') return;
        if (news.value.more) void this.load();
        else this.take(news.value.jobs);
      },
    });
  }

  /** A mesh that has never had a job has no service to ask. */
  #begin({ failure }: TopicState): void {
    this.#serves = !failure;
    if (!failure) return void this.load();
    this.loaded = true;
    if (failure.reason !== 'NOT_STARTED') this.error = { code: '', reason: failure.reason, message: failure.message, fields: [] };
  }

  setFilter(change: Partial<JobFilter>): void {
    this.filter = { ...this.filter, ...change };
    if (this.#serves) void this.load();
  }

  load(): Promise<void> {
    return this.#read('');
  }

  more(): Promise<void> {
    return this.#read(this.#next);
  }

  /** Puts changed jobs in their places, and leaves out those that the filter does not want any more. */
  take(changed: readonly Job[]): void {
    const jobs = new Map(this.#jobs);
    for (const job of changed) {
      if ((jobs.get(job.jobId)?.sequence ?? 0n) > job.sequence) continue;
      if (matches(job, this.filter)) jobs.set(job.jobId, job);
      else jobs.delete(job.jobId);
    }
    this.#jobs = jobs;
  }

  async #read(pageToken: string): Promise<void> {
    const read = ++this.#reads;
    const { state, kind, queue } = this.filter;
    this.busy = true;
    try {
      const page = await clientOf(JobService).listJobs({
        ...{ pageToken, pageSize: PAGE, queue },
        ...(state && { states: [state] }),
        ...(kind && { kinds: [kind] }),
      });
      if (read !== this.#reads) return;
      if (!pageToken) this.#jobs = new Map();
      this.take(page.jobs);
      this.#next = page.nextPageToken;
      this.error = undefined;
    } catch (thrown) {
      if (read !== this.#reads) return;
      this.error = toApiError(thrown);
    } finally {
      if (read === this.#reads) {
        this.busy = false;
        this.loaded = true;
      }
    }
  }
}

export function matches(job: Job, { state, kind, queue }: JobFilter): boolean {
  const isListed = kind ? job.kind === kind : job.kind !== JobKind.REQUEST;
  return isListed && (!state || job.state === state) && (!queue || job.queue === queue);
}

function byAge(a: Job, b: Job): number {
  const age = (b.createTime ? timestampMs(b.createTime) : 0) - (a.createTime ? timestampMs(a.createTime) : 0);
  return age || (a.jobId < b.jobId ? 1 : -1);
}
