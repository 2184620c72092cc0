import { create } from '@bufbuild/protobuf';
import { GuardMetric, GuardSchema, type Guard } from '#gen/mlxmesh/model/v1/rollout_pb.ts';

export type Unit = '%' | 'ms' | 'tokens' | 'x';

/** A guard as its form has it. */
export interface GuardDraft {
  metric: GuardMetric;
  above: boolean;
  bound: number | null;
  unit: Unit;
}

interface MetricInfo {
  metric: GuardMetric;
  label: string;
  unit: Exclude<Unit, 'x'>;
}

/** Every metric, with its own unit. */
export const METRICS: readonly MetricInfo[] = [
  { metric: GuardMetric.ERROR_RATE, label: 'Error rate', unit: '%' },
  { metric: GuardMetric.INVALID_RATE, label: 'Invalid outputs', unit: '%' },
  { metric: GuardMetric.TTFT_P50, label: 'Time to first token, median', unit: 'ms' },
  { metric: GuardMetric.TTFT_P95, label: 'Time to first token, p95', unit: 'ms' },
  { metric: GuardMetric.TTFT_P99, label: 'Time to first token, p99', unit: 'ms' },
  { metric: GuardMetric.TPOT_P50, label: 'Time per token, median', unit: 'ms' },
  { metric: GuardMetric.TPOT_P95, label: 'Time per token, p95', unit: 'ms' },
  { metric: GuardMetric.TOKENS_PER_REQUEST, label: 'Tokens per request', unit: 'tokens' },
];

function infoOf(metric: GuardMetric): MetricInfo {
  return METRICS.find((one) => one.metric === metric) ?? { metric, label: `Metric ${metric}`, unit: 'tokens' };
}

export function labelOf(metric: GuardMetric): string {
  return infoOf(metric).label;
}

/** The units that a bound of this metric can have: its own, and a factor of the present version. */
export function unitsOf(metric: GuardMetric): readonly { value: Unit; label: string }[] {
  const { unit } = infoOf(metric);
  return [
    { value: unit, label: unit },
    { value: 'x', label: '× present version' },
  ];
}

export function toGuard({ metric, above, bound, unit }: GuardDraft): Guard {
  const value = Number(bound ?? 0);
  return create(GuardSchema, { metric, above, bound: unit === '%' ? value / 100 : value, relative: unit === 'x' });
}

/** "below 1%", or "above 0.8 × present version". */
export function boundText(guard: Guard): string {
  const bound = guard.relative ? `${figure(guard.bound)} × present version` : valueText(guard.metric, guard.bound);
  return `${guard.above ? 'above' : 'below'} ${bound}`;
}

/** A value of a metric with its unit. */
export function valueText(metric: GuardMetric, value: number): string {
  const { unit } = infoOf(metric);
  if (unit === '%') return `${figure(value * 100)}%`;
  return unit === 'ms' ? `${figure(value)} ms` : figure(value);
}

function figure(value: number): string {
  return value.toLocaleString('en', { maximumSignificantDigits: 4 });
}
