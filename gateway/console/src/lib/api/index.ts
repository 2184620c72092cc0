export { clientOf } from './client.ts';
export { isAborted, isUnreachable, toApiError, type ApiError } from './errors.ts';
export { run } from './run.ts';
