import { Code, ConnectError, createClient, type Client, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-web';
import type { DescService } from '@bufbuild/protobuf';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { session } from '#lib/session/session.svelte.ts';

/** Proves that the console itself makes a call by the session's cookie. */
const withToken: Interceptor = (next) => (request) => {
  if (session.csrfToken) request.header.set('x-csrf-token', session.csrfToken);
  return next(request);
};

/** An access token lives for minutes: a call that was refused for its age, or because another tab has renewed it, is made once more. */
const renewing: Interceptor = (next) => async (request) => {
  try {
    return await next(request);
  } catch (thrown) {
    if (!isOfAnOldSession(ConnectError.from(thrown))) throw thrown;
    await session.load();
    if (!session.isReady) throw thrown;
    return next(request);
  }
};

function isOfAnOldSession(error: ConnectError): boolean {
  if (error.code === Code.Unauthenticated) return true;
  return error.code === Code.PermissionDenied && error.findDetails(ErrorInfoSchema)[0]?.reason === 'CSRF_TOKEN_INVALID';
}

const transport = createConnectTransport({
  baseUrl: typeof location === 'undefined' ? '' : location.origin,
  interceptors: [renewing, withToken],
});

/** A client of one service of the contracts. It retries nothing that a service may have begun. */
export function clientOf<T extends DescService>(service: T): Client<T> {
  return createClient(service, transport);
}
