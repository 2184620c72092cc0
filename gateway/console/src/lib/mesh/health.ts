import { BreakerState, Health, type Instance } from '#gen/mlxmesh/telemetry/v1/telemetry_pb.ts';

export type Tone = 'good' | 'warn' | 'bad' | 'neutral';

/** How an instance is, in a word, with its tone. */
export function healthOf({ health }: Pick<Instance, 'health'>): { label: string; tone: Tone } {
  switch (health) {
    case Health.SERVING:
      return { label: 'serving', tone: 'good' };
    case Health.NOT_SERVING:
      return { label: 'not serving', tone: 'warn' };
    case Health.UNREACHABLE:
      return { label: 'unreachable', tone: 'bad' };
    default:
      return { label: 'unknown', tone: 'neutral' };
  }
}

/** The state of an instance's circuit breaker; undefined where it has none, or it is closed. */
export function breakerOf({ breaker }: Pick<Instance, 'breaker'>): { label: string; tone: Tone } | undefined {
  switch (breaker?.state) {
    case BreakerState.OPEN:
      return { label: 'breaker open', tone: 'bad' };
    case BreakerState.HALF_OPEN:
      return { label: 'breaker half open', tone: 'warn' };
    default:
      return undefined;
  }
}

/** The worst tone of some. */
export function worstOf(tones: readonly Tone[]): Tone {
  const order: Tone[] = ['bad', 'warn', 'good', 'neutral'];
  return order.find((tone) => tones.includes(tone)) ?? 'neutral';
}

/** The tone of an instance: of its health, and of its breaker. */
export function toneOf(instance: Instance): Tone {
  return worstOf([healthOf(instance).tone, breakerOf(instance)?.tone ?? 'neutral']);
}
