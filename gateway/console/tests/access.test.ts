import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { describe, expect, it } from 'vitest';
import { QuotaSchema, UsageRowSchema, type UsageRow } from '#gen/mlxmesh/access/v1/access_pb.ts';
import { endOfDay, patternsIn } from '#lib/access/expiry.ts';
import { limitsOf, subjectName } from '#lib/access/quotas.ts';
import { daily, totals } from '#lib/access/usage.ts';
import { safeNext } from '#lib/session/next.ts';

const ORIGIN = 'http://127.0.0.1:8051';
const DAY_MS = 86_400_000;

describe('where the sign-in leads to', () => {
  it.each([
    ['/access?tab=keys', '/access?tab=keys'],
    ['/chat/1#end', '/chat/1#end'],
    [null, '/'],
    ['', '/'],
    ['//evil.example', '/'],
    ['/\\evil.example', '/'],
    ['/\t/evil.example', '/'],
    ['https://evil.example/', '/'],
    ['javascript:alert(1)', '/'],
    ['/sign-in?next=/sign-in', '/'],
    ['/first-run', '/'],
  ])('%j to %s', (next, expected) => {
    expect(safeNext(next, ORIGIN)).toBe(expected);
  });
});

describe('usage', () => {
  const row = (day: number, model: string, tokens: number): UsageRow =>
    create(UsageRowSchema, {
      ...{ model, modelVersion: 1, time: timestampFromMs(day * DAY_MS) },
      amounts: { requests: 1n, promptTokens: BigInt(tokens), completionTokens: 1n, deviceS: 0.5 },
    });
  const rows = [row(10, 'a', 1), row(10, 'b', 10), row(11, 'b', 20), row(12, 'a', 2)];

  it('is summed by group, the largest first', () => {
    const sums = totals(rows, 'model').map(({ name, requests, promptTokens, deviceS }) => [name, requests, promptTokens, deviceS]);
    expect(sums).toEqual([
      ['b@1', 2, 30, 1],
      ['a@1', 2, 3, 1],
    ]);
  });

  it('has a value for each day, also for those without use', () => {
    const day = DAY_MS / 1000;
    expect(daily(rows, 'model', ['b@1', 'a@1'], 9 * day + 5, 12 * day + 5)).toEqual([
      [9 * day, 10 * day, 11 * day, 12 * day],
      [0, 11, 21, 0],
      [0, 2, 0, 3],
    ]);
  });
});

describe('quotas', () => {
  it('show the limits that are set, with their use', () => {
    const quota = create(QuotaSchema, {
      subject: { subject: { case: 'keyId', value: 'k_1' } },
      limits: { tokensPerDay: 10n, concurrentGenerations: 2 },
      used: { tokensThisDay: 4n },
    });
    expect(subjectName(quota.subject)).toBe('key k_1');
    expect(limitsOf(quota).map(({ label, limit, used }) => [label, limit, used])).toEqual([
      ['Tokens a day', 10, 4],
      ['Generations at once', 2, undefined],
    ]);
  });
});

describe('a new key', () => {
  it('ends with its last day', () => {
    expect(endOfDay('2030-02-03')).toEqual(new Date(2030, 1, 3, 23, 59, 59));
    expect(endOfDay('')).toBeUndefined();
  });

  it('has as many patterns as were written', () => {
    expect(patternsIn(' qwen*, llama \n phi-*')).toEqual(['qwen*', 'llama', 'phi-*']);
    expect(patternsIn(' ')).toEqual([]);
  });
});
