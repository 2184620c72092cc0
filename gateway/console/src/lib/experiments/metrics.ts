import { ExperimentMetric, ExperimentState, type ArmAnalysis, type Estimate } from '#gen/mlxmesh/model/v1/experiment_pb.ts';
import { SplitSubject } from '#gen/mlxmesh/model/v1/split_pb.ts';

interface MetricInfo {
  metric: ExperimentMetric;
  label: string;
  unit: string;
  /** Whether values are 0 or 1, shown in percent. */
  share?: boolean;
}

export const METRICS: readonly MetricInfo[] = [
  { metric: ExperimentMetric.TTFT, label: 'Time to first token', unit: 'ms' },
  { metric: ExperimentMetric.TOKENS_PER_SECOND, label: 'Tokens per second', unit: '' },
  { metric: ExperimentMetric.ERROR, label: 'Errors', unit: '%', share: true },
  { metric: ExperimentMetric.COMPLETION_TOKENS, label: 'Generated tokens', unit: '' },
  { metric: ExperimentMetric.SCHEMA_VALID, label: 'Outputs that satisfy their schema', unit: '%', share: true },
  { metric: ExperimentMetric.TOOLS_VALID, label: 'Outputs whose tool calls parse', unit: '%', share: true },
  { metric: ExperimentMetric.COST, label: 'Cost', unit: '' },
  { metric: ExperimentMetric.SCORE, label: 'Score of callers', unit: '' },
];

export function infoOf(metric: ExperimentMetric): MetricInfo {
  return METRICS.find((one) => one.metric === metric) ?? { metric, label: `Metric ${metric}`, unit: '' };
}

export const SUBJECTS = [
  { value: String(SplitSubject.SESSION), label: 'a session' },
  { value: String(SplitSubject.USER), label: 'a user of a caller' },
  { value: String(SplitSubject.PRINCIPAL), label: 'a caller (key, user or certificate)' },
];

export function subjectText(subject: SplitSubject): string {
  return SUBJECTS.find((one) => one.value === String(subject))?.label ?? 'unknown';
}

export const STATES: Record<ExperimentState, { label: string; tone: 'neutral' | 'accent' | 'good' }> = {
  [ExperimentState.UNSPECIFIED]: { label: 'unknown', tone: 'neutral' },
  [ExperimentState.PREPARING]: { label: 'preparing', tone: 'accent' },
  [ExperimentState.RUNNING]: { label: 'running', tone: 'good' },
  [ExperimentState.STOPPED]: { label: 'stopped', tone: 'neutral' },
};

/** A value of a metric; shares in percent. */
export function valueText(metric: ExperimentMetric, value: number): string {
  const { unit, share } = infoOf(metric);
  const shown = (share ? value * 100 : value).toLocaleString('en', { maximumSignificantDigits: 4 });
  return unit === '%' ? `${shown}%` : unit ? `${shown} ${unit}` : shown;
}

/** "1.2 ms to 3.4 ms", or what is missing for an interval. */
export function intervalText(metric: ExperimentMetric, { lower, upper }: Estimate): string {
  if (!Number.isFinite(lower) || !Number.isFinite(upper)) return 'needs 100 subjects in each arm';
  return `${valueText(metric, lower)} to ${valueText(metric, upper)}`;
}

/** The course of a difference as rows of a chart: values, difference, lower and upper end. */
export function courseOf(metric: ExperimentMetric, arm: ArmAnalysis): (number | null)[][] {
  const factor = infoOf(metric).share ? 100 : 1;
  const drawn = (value: number | undefined) => (value === undefined || !Number.isFinite(value) ? null : value * factor);
  return [
    arm.course.map(({ values }) => Number(values)),
    arm.course.map(({ estimate }) => drawn(estimate?.mean)),
    arm.course.map(({ estimate }) => drawn(estimate?.lower)),
    arm.course.map(({ estimate }) => drawn(estimate?.upper)),
  ];
}
