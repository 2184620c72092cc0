import type { Span } from '#gen/mlxmesh/telemetry/v1/telemetry_pb.ts';

/** A span as a bar: where it begins and how long it is, as shares of the whole. */
export interface Bar {
  span: Span;
  depth: number;
  offsetMs: number;
  durationMs: number;
  left: number;
  width: number;
  events: { name: string; left: number; offsetMs: number; attributes: Record<string, string> }[];
}

export interface Waterfall {
  bars: Bar[];
  durationMs: number;
}

const NS_PER_MS = 1e6;

/** The spans below their parents, ordered by their start; spans of lost parents are roots. */
export function waterfallOf(spans: readonly Span[]): Waterfall {
  if (spans.length === 0) return { bars: [], durationMs: 0 };
  const begin = min(spans.map((span) => span.startUnixNano));
  const end = max(spans.map((span) => span.startUnixNano + span.durationNano));
  const durationMs = Math.max(Number(end - begin) / NS_PER_MS, 0.001);
  const ids = new Set(spans.map((span) => span.spanId));
  const children = Map.groupBy(spans, (span) => (ids.has(span.parentSpanId) ? span.parentSpanId : ''));
  const bars: Bar[] = [];

  function add(parent: string, depth: number): void {
    const ordered = (children.get(parent) ?? []).toSorted((a, b) => (a.startUnixNano < b.startUnixNano ? -1 : 1));
    for (const span of ordered) {
      bars.push(barOf(span, depth, begin, durationMs));
      add(span.spanId, depth + 1);
    }
  }

  add('', 0);
  return { bars, durationMs };
}

function barOf(span: Span, depth: number, begin: bigint, wholeMs: number): Bar {
  const offsetMs = Number(span.startUnixNano - begin) / NS_PER_MS;
  const durationMs = Number(span.durationNano) / NS_PER_MS;
  const events = span.events.map(({ name, unixNano, attributes }) => {
    const at = Number(unixNano - begin) / NS_PER_MS;
    return { name, attributes, offsetMs: at, left: share(at, wholeMs) };
  });
  const left = share(offsetMs, wholeMs);
  return { span, depth, offsetMs, durationMs, left, width: Math.min(share(durationMs, wholeMs), 1 - left), events };
}

function share(ms: number, wholeMs: number): number {
  return Math.min(1, Math.max(0, ms / wholeMs));
}

function min(values: bigint[]): bigint {
  return values.reduce((a, b) => (a < b ? a : b));
}

function max(values: bigint[]): bigint {
  return values.reduce((a, b) => (a > b ? a : b));
}
