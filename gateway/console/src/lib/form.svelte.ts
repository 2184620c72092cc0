import { isAborted, toApiError } from '#lib/api/errors.ts';
import { toasts } from '#lib/toasts.svelte.ts';

/** The state of a form that calls the API: whether it runs, and what was refused. */
export class Form {
  busy = $state(false);
  /** Why the last attempt failed; empty after a success. */
  message = $state('');
  /** Refused fields by the path of the contract, such as limits.tokens_per_day. */
  errors = $state.raw<Record<string, string>>({});

  /** Runs the action and says how it ended; undefined after a failure. */
  async submit<T>(action: () => Promise<T>, done = ''): Promise<T | undefined> {
    if (this.busy) return undefined;
    this.busy = true;
    this.clear();
    try {
      const value = await action();
      if (done) toasts.good(done);
      return value;
    } catch (thrown) {
      if (isAborted(thrown)) return undefined;
      const error = toApiError(thrown);
      this.errors = Object.fromEntries(error.fields.map(({ field, description }) => [field, description]));
      this.message = error.message;
      return undefined;
    } finally {
      this.busy = false;
    }
  }

  clear(): void {
    this.message = '';
    this.errors = {};
  }
}
