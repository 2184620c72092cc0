import { timestampMs } from '@bufbuild/protobuf/wkt';
import { RequestState, type RequestRecord } from '#gen/mlxmesh/telemetry/v1/live_pb.ts';

/** When a request arrived. */
export function startMs(record: RequestRecord): number {
  return record.startTime ? timestampMs(record.startTime) : 0;
}

/** How a request is or ended, in a word, with its tone. */
export function outcomeOf(record: RequestRecord): { label: string; tone: 'good' | 'bad' | 'accent' | 'neutral' } {
  if (record.state === RequestState.RUNNING) return { label: 'running', tone: 'accent' };
  if (record.failure) return { label: record.failure.reason || 'failed', tone: record.failure.reason === 'CANCELLED' ? 'neutral' : 'bad' };
  return { label: record.finishReason || 'ended', tone: 'good' };
}

/** Output tokens per second after the first one; 0 where there are too few. */
export function tokensPerSecond(record: RequestRecord): number {
  const ms = record.durationMs - record.firstOutputMs;
  return record.completionTokens > 1 && record.firstOutputMs > 0 && ms > 0 ? ((record.completionTokens - 1) / ms) * 1000 : 0;
}

/** model@version, and the arm of a split. */
export function servedBy(record: RequestRecord): string {
  const version = record.modelVersion ? `@${record.modelVersion}` : '';
  return `${record.model}${version}${record.arm ? ` (${record.arm})` : ''}`;
}
