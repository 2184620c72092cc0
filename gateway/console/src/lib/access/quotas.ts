import type { Quota, QuotaSubject } from '#gen/mlxmesh/access/v1/access_pb.ts';

/** The limits of a quota: the name of each in the contract, what people call it, and its use if it is counted. */
export const LIMITS = [
  { key: 'requestsPerMinute', field: 'limits.requests_per_minute', label: 'Requests a minute', used: 'requestsThisMinute' },
  { key: 'tokensPerMinute', field: 'limits.tokens_per_minute', label: 'Tokens a minute', used: 'tokensThisMinute' },
  { key: 'tokensPerDay', field: 'limits.tokens_per_day', label: 'Tokens a day', used: 'tokensThisDay' },
  { key: 'tokensPerMonth', field: 'limits.tokens_per_month', label: 'Tokens a month', used: 'tokensThisMonth' },
  { key: 'concurrentGenerations', field: 'limits.concurrent_generations', label: 'Generations at once', used: undefined },
] as const;

export type LimitKey = (typeof LIMITS)[number]['key'];

/** Whom a quota applies to, such as "user ada". */
export function subjectName(subject: QuotaSubject | undefined): string {
  const { case: kind, value } = subject?.subject ?? {};
  return kind ? `${kind === 'keyId' ? 'key' : kind} ${value}` : 'nobody';
}

/** The limits that are set, with what is used of them. */
export function limitsOf(quota: Quota): { key: LimitKey; label: string; limit: number; used: number | undefined }[] {
  return LIMITS.flatMap(({ key, label, used }) => {
    const limit = quota.limits?.[key];
    if (limit === undefined) return [];
    return [{ key, label, limit: Number(limit), used: used && Number(quota.used?.[used] ?? 0n) }];
  });
}
