import { timestampDate } from '@bufbuild/protobuf/wkt';
import { UsageGroup, type UsageRow } from '#gen/mlxmesh/access/v1/access_pb.ts';

export type Dimension = 'model' | 'user' | 'team' | 'key';

export const DIMENSIONS: readonly { value: Dimension; label: string; group: UsageGroup; adminsOnly?: boolean }[] = [
  { value: 'model', label: 'Model', group: UsageGroup.MODEL },
  { value: 'key', label: 'Key', group: UsageGroup.KEY },
  { value: 'user', label: 'User', group: UsageGroup.USER, adminsOnly: true },
  { value: 'team', label: 'Team', group: UsageGroup.TEAM, adminsOnly: true },
];

/** Sums of one group. */
export interface Total {
  name: string;
  requests: number;
  errors: number;
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  deviceS: number;
}

/** What a row belongs to. */
export function nameOf(row: UsageRow, by: Dimension): string {
  if (by === 'model') return row.model ? `${row.model}@${row.modelVersion}` : 'no model';
  if (by === 'key') return row.keyId || (row.user ? `sessions of ${row.user}` : 'without a key');
  return (by === 'user' ? row.user : row.team) || (by === 'user' ? 'no user' : 'no team');
}

/** One total a group, the largest first. */
export function totals(rows: readonly UsageRow[], by: Dimension): Total[] {
  const found = new Map<string, Total>();
  for (const row of rows) {
    const name = nameOf(row, by);
    const total = found.get(name) ?? { name, requests: 0, errors: 0, promptTokens: 0, cachedTokens: 0, completionTokens: 0, deviceS: 0 };
    total.requests += Number(row.amounts?.requests ?? 0n);
    total.errors += Number(row.amounts?.errors ?? 0n);
    total.promptTokens += Number(row.amounts?.promptTokens ?? 0n);
    total.cachedTokens += Number(row.amounts?.cachedTokens ?? 0n);
    total.completionTokens += Number(row.amounts?.completionTokens ?? 0n);
    total.deviceS += row.amounts?.deviceS ?? 0;
    found.set(name, total);
  }
  return [...found.values()].sort((a, b) => tokensOf(b) - tokensOf(a) || b.requests - a.requests);
}

export function tokensOf(total: Total): number {
  return total.promptTokens + total.completionTokens;
}

const DAY_S = 86_400;

/** Tokens a day of the largest groups: the days in seconds, then a row a name. */
export function daily(rows: readonly UsageRow[], by: Dimension, names: readonly string[], fromS: number, toS: number): number[][] {
  const first = Math.floor(fromS / DAY_S);
  const days = Array.from({ length: Math.floor(toS / DAY_S) - first + 1 }, (_, at) => (first + at) * DAY_S);
  const series = names.map(() => days.map(() => 0));
  for (const row of rows) {
    const line = series[names.indexOf(nameOf(row, by))];
    if (!line || !row.time) continue;
    const day = Math.floor(timestampDate(row.time).getTime() / 1000 / DAY_S) - first;
    if (day >= 0 && day < line.length) line[day]! += Number((row.amounts?.promptTokens ?? 0n) + (row.amounts?.completionTokens ?? 0n));
  }
  return [days, ...series];
}
