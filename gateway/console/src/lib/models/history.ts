import type { HistoryPeriod } from '#gen/mlxmesh/model/v1/history_pb.ts';

type Read = (period: HistoryPeriod) => number | null;

/** The figures of a version's history. */
export const METRICS: readonly { value: string; label: string; unit: string; read: Read }[] = [
  { value: 'requests', label: 'Requests', unit: '', read: (one) => Number(one.requests) },
  { value: 'errors', label: 'Errors', unit: '', read: (one) => Number(one.errors) },
  { value: 'tokens', label: 'Generated tokens', unit: '', read: (one) => Number(one.completionTokens) },
  { value: 'ttft', label: 'Time to the first token (p95)', unit: 'ms', read: (one) => one.ttft?.p95Ms ?? null },
  { value: 'tpot', label: 'Time per token (p95)', unit: 'ms', read: (one) => one.tpot?.p95Ms ?? null },
  { value: 'cost', label: 'Cost', unit: '', read: (one) => one.cost },
];

/** The periods as a chart needs them: the times in seconds, and then one row a version. */
export function seriesOf(periods: readonly HistoryPeriod[], read: Read): { versions: number[]; data: (number | null)[][] } {
  const startS = (one: HistoryPeriod) => Number(one.startTime?.seconds ?? 0n);
  const times = [...new Set(periods.map(startS))].toSorted((a, b) => a - b);
  const versions = [...new Set(periods.map((one) => one.version))].toSorted((a, b) => a - b);
  const rows = versions.map((version) => {
    const known = new Map(periods.filter((one) => one.version === version).map((one) => [startS(one), read(one)]));
    return times.map((time) => known.get(time) ?? null);
  });
  return { versions, data: [times, ...rows] };
}
