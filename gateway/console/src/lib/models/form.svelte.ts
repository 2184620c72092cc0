import { toApiError, type ApiError } from '#lib/api/index.ts';
import { toasts } from '#lib/toasts.svelte.ts';

/** A form's submission: whether it runs, and which fields were refused. */
export class Submission {
  busy = $state(false);
  error = $state.raw<ApiError>();

  /** Why a field was refused. */
  of(field: string): string {
    return this.error?.fields.find((one) => one.field === field)?.description ?? '';
  }

  /** What was refused without a field of the form. */
  rest(fields: readonly string[]): string {
    const known = this.error?.fields.some((one) => fields.includes(one.field));
    return this.error && !known ? this.error.message : '';
  }

  /** Runs the action; says in a toast what it did, or keeps why not. Returns whether it succeeded. */
  async run(action: () => Promise<unknown>, done: string): Promise<boolean> {
    this.busy = true;
    this.error = undefined;
    try {
      await action();
      toasts.good(done);
      return true;
    } catch (thrown) {
      this.error = toApiError(thrown);
      return false;
    } finally {
      this.busy = false;
    }
  }
}
