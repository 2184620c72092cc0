import { ShadowDropReason } from '#gen/mlxmesh/model/v1/shadow_pb.ts';

const REASONS: Record<number, string> = {
  [ShadowDropReason.NO_ROOM]: 'no room beside other requests',
  [ShadowDropReason.FAILED]: 'the repetition failed',
  [ShadowDropReason.TIMEOUT]: 'it took too long',
  [ShadowDropReason.PRIMARY_INCOMPLETE]: 'the primary did not complete',
  [ShadowDropReason.UNSUPPORTED]: 'the version cannot do it',
};

/** Why requests were not compared, with how many, the most frequent first. */
export function dropList(drops: Record<string, bigint>): { reason: string; count: bigint }[] {
  return Object.entries(drops)
    .map(([number, count]) => ({ reason: REASONS[Number(number)] ?? `reason ${number}`, count }))
    .toSorted((a, b) => Number(b.count - a.count));
}
