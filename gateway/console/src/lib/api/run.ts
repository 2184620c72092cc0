import { toasts } from '#lib/toasts.svelte.ts';
import { isAborted, toApiError } from './errors.ts';

/**
 * Runs an action and says in a toast how it ended: `done` when it succeeded, the API's message when it did not.
 * Returns the action's value, or undefined after a failure.
 */
export async function run<T>(action: () => Promise<T>, done?: string | ((value: T) => string)): Promise<T | undefined> {
  try {
    const value = await action();
    if (done) toasts.good(typeof done === 'function' ? done(value) : done);
    return value;
  } catch (thrown) {
    if (!isAborted(thrown)) toasts.failed(toApiError(thrown));
    return undefined;
  }
}
