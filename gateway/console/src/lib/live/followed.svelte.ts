import { Code, ConnectError } from '@connectrpc/connect';
import { toApiError, type ApiError } from '#lib/api/errors.ts';

const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 10_000;

/** The newest message of a stream of one thing, which is opened again after a loss until it ends. */
export class Followed<T> {
  value = $state.raw<T | undefined>();
  /** Why nothing comes at present. */
  error = $state.raw<ApiError | undefined>();
  /** Whether the stream was ended by the API: nothing changes any more. */
  ended = $state(false);

  constructor(private readonly open: (signal: AbortSignal) => AsyncIterable<T>) {}

  /** Follows until the returned function is called; made for `$effect(() => followed.start())`. */
  start(): () => void {
    const abort = new AbortController();
    void this.#follow(abort.signal);
    return () => abort.abort();
  }

  async #follow(signal: AbortSignal): Promise<void> {
    let failures = 0;
    while (!signal.aborted) {
      try {
        for await (const value of this.open(signal)) {
          failures = 0;
          this.error = undefined;
          this.value = value;
        }
        this.ended = true;
        return;
      } catch (thrown) {
        if (signal.aborted) return;
        this.error = toApiError(thrown);
        if (isFinal(thrown)) return;
      }
      await later(Math.min(FIRST_RETRY_MS * 2 ** failures, MAX_RETRY_MS), signal);
      failures += 1;
    }
  }
}

/** Whether asking again would be answered in the same way. */
function isFinal(thrown: unknown): boolean {
  const refused: Code[] = [Code.NotFound, Code.InvalidArgument, Code.PermissionDenied, Code.Unauthenticated, Code.Unimplemented];
  return refused.includes(ConnectError.from(thrown).code);
}

function later(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      done();
    });
  });
}
