import { JobKind, JobState, type Job, type JobProgress } from '#gen/mlxmesh/job/v1/job_pb.ts';
import { formatNumber, formatPercent } from '#lib/format.ts';

type Tone = 'neutral' | 'good' | 'warn' | 'bad' | 'accent';

export const STATES: Record<JobState, { label: string; tone: Tone }> = {
  [JobState.UNSPECIFIED]: { label: '–', tone: 'neutral' },
  [JobState.DELAYED]: { label: 'delayed', tone: 'warn' },
  [JobState.WAITING]: { label: 'waiting', tone: 'neutral' },
  [JobState.RUNNING]: { label: 'running', tone: 'accent' },
  [JobState.CANCELLING]: { label: 'cancelling', tone: 'warn' },
  [JobState.COMPLETED]: { label: 'completed', tone: 'good' },
  [JobState.FAILED]: { label: 'failed', tone: 'bad' },
  [JobState.CANCELLED]: { label: 'cancelled', tone: 'neutral' },
};

export const KINDS: Record<JobKind, string> = {
  [JobKind.UNSPECIFIED]: '–',
  [JobKind.GENERATION]: 'generation',
  [JobKind.BATCH]: 'batch',
  [JobKind.EMBEDDING]: 'embedding',
  [JobKind.CONNECTOR]: 'connector',
  [JobKind.REQUEST]: 'request',
};

const ENDED: readonly JobState[] = [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED];

export function hasEnded(job: Job): boolean {
  return ENDED.includes(job.state);
}

/** Whether CancelJob would do something. */
export function mayCancel(job: Job): boolean {
  return !hasEnded(job) && job.state !== JobState.CANCELLING;
}

/** Whether RetryJob would do something. */
export function mayRetry(job: Job): boolean {
  if (job.state === JobState.FAILED || job.state === JobState.CANCELLED) return true;
  return job.state === JobState.COMPLETED && job.result.case === 'batch' && job.result.value.failed > 0n;
}

/** For example "3 of 10 requests", or "40%". */
export function progressText(progress: JobProgress | undefined): string {
  if (!progress) return '';
  const { done, total, unit, fraction, text } = progress;
  const count = total > 0n ? `${formatNumber(done)} of ${formatNumber(total)} ${unit}` : done > 0n ? `${formatNumber(done)} ${unit}` : '';
  return text || count.trim() || (fraction > 0 ? formatPercent(fraction, 0) : '');
}
