import { RolloutState, type Rollout } from '#gen/mlxmesh/model/v1/rollout_pb.ts';

type Tone = 'neutral' | 'good' | 'warn' | 'bad' | 'accent';

const STATES: Record<RolloutState, { label: string; tone: Tone }> = {
  [RolloutState.UNSPECIFIED]: { label: 'unknown', tone: 'neutral' },
  [RolloutState.PREPARING]: { label: 'preparing', tone: 'accent' },
  [RolloutState.PROGRESSING]: { label: 'progressing', tone: 'accent' },
  [RolloutState.PAUSED]: { label: 'paused', tone: 'warn' },
  [RolloutState.PROMOTED]: { label: 'promoted', tone: 'good' },
  [RolloutState.ROLLED_BACK]: { label: 'rolled back', tone: 'bad' },
  [RolloutState.ABORTED]: { label: 'aborted', tone: 'bad' },
};

export function stateOf(state: RolloutState): { label: string; tone: Tone } {
  return STATES[state] ?? STATES[RolloutState.UNSPECIFIED];
}

export function hasEnded({ state }: Rollout): boolean {
  return state > RolloutState.PAUSED;
}

/** "1, 10, 50" as numbers. Throws an Error that says what is wrong with it. */
export function parseSteps(text: string): number[] {
  const steps = text.split(',').map((part) => part.trim().replace(/%$/, '')).filter(Boolean).map(Number);
  if (steps.some((step) => !Number.isInteger(step) || step < 1 || step > 100)) throw new Error('Give whole percentages from 1 to 100.');
  if (steps.some((step, at) => at > 0 && step <= steps[at - 1]!)) throw new Error('Each step must be larger than the one before.');
  if (steps.length > 20) throw new Error('Give at most 20 steps.');
  return steps;
}

const SECONDS = { s: 1, m: 60, h: 3600, d: 86_400 } as const;

/** "90s", "10m", "2h" or "1d" in seconds. Throws an Error that says what is wrong with it. */
export function parseHold(text: string): number {
  const found = /^\s*(\d+)\s*([smhd])\s*$/.exec(text);
  const seconds = found ? Number(found[1]) * SECONDS[found[2] as keyof typeof SECONDS] : 0;
  if (seconds < 1 || seconds > 604_800) throw new Error('Give a time from 1s to 7d, such as 90s, 10m or 2h.');
  return seconds;
}
