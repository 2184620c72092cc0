import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { ArmAnalysisSchema, ExperimentMetric } from '#gen/mlxmesh/model/v1/experiment_pb.ts';
import { GuardMetric } from '#gen/mlxmesh/model/v1/rollout_pb.ts';
import { courseOf, intervalText, valueText as experimentValue } from '#lib/experiments/metrics.ts';
import { boundText, toGuard, unitsOf, valueText } from '#lib/rollouts/guards.ts';
import { parseHold, parseSteps } from '#lib/rollouts/states.ts';

describe('steps and holds', () => {
  test('are read as the command reads them', () => {
    expect(parseSteps('5, 50%,100')).toEqual([5, 50, 100]);
    expect(['90s', '10m', '2h', '1d'].map(parseHold)).toEqual([90, 600, 7200, 86_400]);
  });

  test.each(['10,5', '0,5', '1.5', '101', 'a', '5,5'])('%s are no steps', (text) => {
    expect(() => parseSteps(text)).toThrow();
  });

  test.each(['', '10', '0s', '8d', '-1s', 'soon'])('%s is no hold', (text) => {
    expect(() => parseHold(text)).toThrow();
  });
});

describe('guards', () => {
  test('a rate is a percentage in the form and a share in the contract', () => {
    const guard = toGuard({ metric: GuardMetric.ERROR_RATE, above: false, bound: 1, unit: '%' });
    expect([guard.bound, guard.relative]).toEqual([0.01, false]);
    expect(boundText(guard)).toBe('below 1%');
  });

  test('a factor is relative to the present version', () => {
    const guard = toGuard({ metric: GuardMetric.TTFT_P95, above: false, bound: 1.2, unit: 'x' });
    expect([guard.bound, guard.relative]).toEqual([1.2, true]);
    expect(boundText(guard)).toBe('below 1.2 × present version');
  });

  test('values have their unit', () => {
    expect(valueText(GuardMetric.TTFT_P50, 12.345)).toBe('12.35 ms');
    expect(valueText(GuardMetric.TOKENS_PER_REQUEST, 20)).toBe('20');
    expect(unitsOf(GuardMetric.TPOT_P95).map(({ value }) => value)).toEqual(['ms', 'x']);
  });
});

describe('figures of experiments', () => {
  test('an infinite interval says what is missing', () => {
    const estimate = { mean: 1, lower: -Infinity, upper: Infinity };
    expect(intervalText(ExperimentMetric.TTFT, estimate as never)).toContain('100 subjects');
  });

  test('shares are percentages, also in the plot', () => {
    expect(experimentValue(ExperimentMetric.ERROR, 0.025)).toBe('2.5%');
    const course = [{ values: 10n, estimate: { mean: 0.5, lower: 0.25, upper: Infinity } }];
    const arm = create(ArmAnalysisSchema, { arm: 'new', course });
    expect(courseOf(ExperimentMetric.ERROR, arm)).toEqual([[10], [50], [25], [null]]);
  });
});
