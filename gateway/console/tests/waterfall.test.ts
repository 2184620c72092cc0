import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { SpanSchema, type Span } from '#gen/mlxmesh/telemetry/v1/telemetry_pb.ts';
import { waterfallOf } from '#lib/requests/waterfall.ts';

const BEGIN = 1_700_000_000_000_000_000n;

function span(spanId: string, parentSpanId: string, startMs: number, durationMs: number): Span {
  return create(SpanSchema, {
    spanId,
    parentSpanId,
    startUnixNano: BEGIN + BigInt(startMs) * 1_000_000n,
    durationNano: BigInt(durationMs) * 1_000_000n,
    events: [{ name: 'first token', unixNano: BEGIN + 50n * 1_000_000n }],
  });
}

test('spans come below their parents, in the order of their beginnings', () => {
  const { bars, durationMs } = waterfallOf([span('c', 'a', 60, 20), span('b', 'a', 10, 40), span('a', 'lost', 0, 100)]);
  expect(bars.map((bar) => [bar.span.spanId, bar.depth])).toEqual([['a', 0], ['b', 1], ['c', 1]]);
  expect(durationMs).toBe(100);
});

test('bars are shares of the whole', () => {
  const [whole, half] = waterfallOf([span('a', '', 0, 100), span('b', 'a', 50, 50)]).bars;
  expect([whole!.left, whole!.width]).toEqual([0, 1]);
  expect([half!.left, half!.width]).toEqual([0.5, 0.5]);
  expect(half!.events[0]!.left).toBe(0.5);
});

test('no spans make no bars', () => {
  expect(waterfallOf([])).toEqual({ bars: [], durationMs: 0 });
});
