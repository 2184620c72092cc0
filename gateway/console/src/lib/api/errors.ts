import { Code, ConnectError } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';

/** Why a call failed, as the API says it. */
export interface ApiError {
  /** The status, such as NOT_FOUND. */
  code: string;
  /** The stable reason, such as MODEL_NOT_FOUND; empty where the mesh was not reached. */
  reason: string;
  /** What happened and what to do. */
  message: string;
  /** The fields that were refused: their path and why. */
  fields: { field: string; description: string }[];
}

/** What any thrown value says. */
export function toApiError(thrown: unknown): ApiError {
  if (isApiError(thrown)) return thrown;
  const error = ConnectError.from(thrown);
  const info = error.findDetails(ErrorInfoSchema)[0];
  const bad = error.findDetails(BadRequestSchema)[0];
  return {
    code: codeName(error.code),
    reason: info?.reason ?? '',
    message: isUnreachable(error) ? 'The gateway cannot be reached.' : error.rawMessage,
    fields: (bad?.fieldViolations ?? []).map(({ field, description }) => ({ field, description })),
  };
}

/** The name of a status, such as NOT_FOUND. */
export function codeName(code: Code): string {
  return Code[code].replace(/([a-z])([A-Z])/g, '$1_$2').toUpperCase();
}

/** Whether a call was ended by its own AbortSignal. */
export function isAborted(thrown: unknown): boolean {
  return ConnectError.from(thrown).code === Code.Canceled;
}

/** Whether no answer came, or not all of it: the network or the gateway is gone. */
export function isUnreachable(thrown: unknown): boolean {
  const { cause, rawMessage } = ConnectError.from(thrown);
  const isNetwork = cause instanceof TypeError && NETWORK.test(cause.message);
  return isNetwork || CUT_OFF.test(rawMessage);
}

/** What Chromium, Firefox and Safari say of a request that failed. */
const NETWORK = /fetch|network|load failed/i;
/** What the Connect client says of a stream without its last message. */
const CUT_OFF = /missing EndStreamResponse|premature end of stream|protocol error: (?:promised|incomplete)/;

function isApiError(thrown: unknown): thrown is ApiError {
  return typeof thrown === 'object' && thrown !== null && 'reason' in thrown && 'fields' in thrown;
}
