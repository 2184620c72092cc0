import { Code, ConnectError } from '@connectrpc/connect';
import type { GenerateRequest, GenerateResponse } from '#gen/mlxmesh/generation/v1/generation_pb.ts';
import { isUnreachable, toApiError, type ApiError } from '#lib/api/errors.ts';
import { applyResponse } from './apply.ts';
import type { Answer } from './types.ts';

/** The calls that a stream needs. */
export interface Generations {
  generate(request: GenerateRequest, signal: AbortSignal): AsyncIterable<GenerateResponse>;
  /** The rest of a stream after one of its messages, by its number and who gave it. */
  attach(requestId: string, after: number, numbering: number, signal: AbortSignal): AsyncIterable<GenerateResponse>;
  /** Renews a session whose access token has expired; false if it has ended. */
  renew(): Promise<boolean>;
}

export interface Followed {
  /** Called after each message. */
  onChange(): void;
  signal: AbortSignal;
  now?: () => number;
  pause?: (ms: number) => Promise<void>;
}

/** A generation waits for a minute without a reader; then there is nothing to go on with. */
const MAX_LOST_MS = 75_000;
const FIRST_PAUSE_MS = 250;
const MAX_PAUSE_MS = 3_000;

/**
 * Reads an answer to its end, whatever happens to the connection or the gateway: after a loss it attaches after the
 * last message. Without a request, the generation runs already. Settles when the answer has ended, failed, is read
 * elsewhere, or `signal` aborts.
 */
export async function follow(answer: Answer, request: GenerateRequest | undefined, calls: Generations, followed: Followed): Promise<void> {
  const { signal, onChange } = followed;
  const now = followed.now ?? Date.now;
  const pause = followed.pause ?? ((ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms)));
  let lostMs: number | undefined;
  let pauseMs = FIRST_PAUSE_MS;
  while (answer.state === 'running' && !signal.aborted) {
    try {
      const stream =
        request && answer.sequence === 0
          ? calls.generate(request, signal)
          : calls.attach(answer.requestId, answer.sequence, answer.numbering ?? 0, signal);
      for await (const response of stream) {
        applyResponse(answer, response, now());
        lostMs = undefined;
        pauseMs = FIRST_PAUSE_MS;
        onChange();
      }
      if (answer.state !== 'running') return;
    } catch (thrown) {
      if (signal.aborted) return;
      const error = toApiError(thrown);
      if (error.code === 'UNAUTHENTICATED' && lostMs === undefined && (await calls.renew())) {
        lostMs = now();
        continue;
      }
      if (!canGoOn(thrown, error)) return end(answer, error, onChange);
      lostMs ??= now();
      if (now() - lostMs > MAX_LOST_MS) return end(answer, error, onChange);
    }
    lostMs ??= now();
    if (now() - lostMs > MAX_LOST_MS) return end(answer, LOST, onChange);
    await pause(pauseMs);
    pauseMs = Math.min(pauseMs * 2, MAX_PAUSE_MS);
  }
}

const LOST: ApiError = { code: 'UNAVAILABLE', reason: '', message: 'The connection was lost.', fields: [] };

function end(answer: Answer, error: ApiError, onChange: () => void): void {
  answer.state = error.reason === 'READER_REPLACED' ? 'elsewhere' : 'failed';
  answer.error = error;
  onChange();
}

/** Whether attaching again can help: the connection, the gateway or what is behind it went away. */
function canGoOn(thrown: unknown, error: ApiError): boolean {
  const isAway = ConnectError.from(thrown).code === Code.Unavailable;
  return isUnreachable(thrown) || (isAway && (error.reason === '' || RETRIED.has(error.reason)));
}

/** Reasons of the gateway itself. Others are of the model, and asking again would only repeat them. */
const RETRIED = new Set(['DRAINING', 'ENGINE_DRAINING', 'SERVICE_UNAVAILABLE', 'REGISTRY_UNAVAILABLE', 'ACCESS_UNAVAILABLE', 'ENGINE_LOST']);
