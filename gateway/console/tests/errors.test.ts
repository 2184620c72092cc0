import { Code, ConnectError } from '@connectrpc/connect';
import { describe, expect, it } from 'vitest';
import { BadRequestSchema, ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import { codeName, isUnreachable, toApiError } from '#lib/api/errors.ts';

it('says what the API says', () => {
  const error = new ConnectError('the name is taken', Code.AlreadyExists, undefined, [
    { desc: ErrorInfoSchema, value: { reason: 'NAME_IN_USE' } },
    { desc: BadRequestSchema, value: { fieldViolations: [{ field: 'name', description: 'taken' }] } },
  ]);
  expect(toApiError(error)).toEqual({
    code: 'ALREADY_EXISTS',
    reason: 'NAME_IN_USE',
    message: 'the name is taken',
    fields: [{ field: 'name', description: 'taken' }],
  });
});

it('passes on what was converted before', () => {
  const error = toApiError(new ConnectError('x', Code.NotFound));
  expect(toApiError(error)).toBe(error);
});

describe('what is unreachable', () => {
  it.each([
    new TypeError('Failed to fetch'),
    new TypeError('network error'),
    new TypeError('NetworkError when attempting to fetch resource.'),
    new TypeError('Load failed'),
    'missing EndStreamResponse',
    new ConnectError('protocol error: incomplete envelope', Code.InvalidArgument),
  ])('%s', (thrown) => {
    expect(isUnreachable(thrown)).toBe(true);
    expect(toApiError(thrown).message).toBe('The gateway cannot be reached.');
  });

  it.each([new TypeError('x is undefined'), new Error('no'), new ConnectError('no', Code.Internal)])('is not %s', (thrown) => {
    expect(isUnreachable(thrown)).toBe(false);
    expect(toApiError(thrown).message).toMatch(/no|x is undefined/);
  });
});

it('names codes as gRPC does', () => {
  expect([Code.Canceled, Code.FailedPrecondition, Code.DataLoss].map(codeName)).toEqual(['CANCELED', 'FAILED_PRECONDITION', 'DATA_LOSS']);
});
