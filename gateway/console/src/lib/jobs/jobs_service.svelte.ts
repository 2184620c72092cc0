import { live, Topic } from '#lib/live/index.ts';

/**
 * Whether there is a jobs service to ask. A mesh that has never had a job has none, and a page that asked for its jobs
 * anyway would be refused.
 */
export class JobsService {
  serves = $state(false);
  /** Whether it is known. */
  told = $state(false);
  /** Why it does not answer; empty for one that nothing has used yet. */
  problem = $state('');
  /** Counts what has changed of jobs. */
  changes = $state(0);

  /** Follows it until the returned function is called; made for `$effect(() => service.start())`. */
  start(): () => void {
    return live.watch(Topic.JOBS, {
      onNews: () => {
        this.serves = this.told = true;
        this.changes += 1;
      },
      onState: ({ failure }) => {
        this.told = true;
        this.serves = !failure;
        this.problem = failure && failure.reason !== 'NOT_STARTED' ? failure.message : '';
      },
    });
  }
}
