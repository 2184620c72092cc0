import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { expect, it } from 'vitest';
import { JobKind, JobSchema, JobState, type Job } from '#gen/mlxmesh/job/v1/job_pb.ts';
import { JobList } from '#lib/jobs/job_list.svelte.ts';
import { mayCancel, mayRetry, progressText } from '#lib/jobs/labels.ts';

function job(jobId: string, change: Partial<{ state: JobState; kind: JobKind; sequence: bigint; at: number }> = {}): Job {
  const { state = JobState.RUNNING, kind = JobKind.GENERATION, sequence = 1n, at = 0 } = change;
  return create(JobSchema, { jobId, state, kind, sequence, queue: 'generation', createTime: timestampFromMs(at) });
}

const ids = (list: JobList) => list.rows.map(({ jobId }) => jobId);

it('the newest job is the first', () => {
  const list = new JobList();
  list.take([job('a', { at: 1 }), job('b', { at: 3 }), job('c', { at: 2 })]);
  expect(ids(list)).toEqual(['b', 'c', 'a']);
});

it('an older state does not replace a newer one', () => {
  const list = new JobList();
  list.take([job('a', { state: JobState.COMPLETED, sequence: 5n })]);
  list.take([job('a', { sequence: 4n })]);
  expect(list.rows[0]?.state).toBe(JobState.COMPLETED);
});

it('a job leaves the list when the filter does not want it any more', () => {
  const list = new JobList();
  list.filter = { state: JobState.RUNNING, kind: 0, queue: '' };
  list.take([job('a'), job('b', { state: JobState.WAITING }), job('r', { kind: JobKind.REQUEST })]);
  expect(ids(list)).toEqual(['a']);
  list.take([job('a', { state: JobState.COMPLETED, sequence: 2n })]);
  expect(ids(list)).toEqual([]);
});

it('only what can be done is offered', () => {
  expect([JobState.WAITING, JobState.RUNNING, JobState.CANCELLING, JobState.FAILED].map((state) => mayCancel(job('a', { state })))).toEqual([true, true, false, false]);
  expect([JobState.RUNNING, JobState.FAILED, JobState.CANCELLED, JobState.COMPLETED].map((state) => mayRetry(job('a', { state })))).toEqual([false, true, true, false]);
  const batch = create(JobSchema, { state: JobState.COMPLETED, result: { case: 'batch', value: { failed: 1n } } });
  expect(mayRetry(batch)).toBe(true);
});

it('progress is said in words', () => {
  const { progress } = create(JobSchema, { progress: { done: 3n, total: 1000n, unit: 'requests' } });
  expect(progressText(progress)).toBe('3 of 1,000 requests');
  expect(progressText(create(JobSchema, { progress: { fraction: 0.4 } }).progress)).toBe('40%');
  expect(progressText(undefined)).toBe('');
});
