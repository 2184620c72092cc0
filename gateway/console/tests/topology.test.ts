import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { BreakerState, Health, InstanceSchema, type Instance } from '#gen/mlxmesh/telemetry/v1/telemetry_pb.ts';
import { drawingOf, MAX_ENGINES, NODE_HEIGHT, pathOf } from '#lib/mesh/topology.ts';

function instance(service: string, instanceId: string, metadata: Record<string, string> = {}, health = Health.SERVING): Instance {
  return create(InstanceSchema, { service, instanceId, metadata, health });
}

function engines(count: number): Instance[] {
  return Array.from({ length: count }, (_, at) => instance('engine', `e-${at}`, { model: at % 2 ? 'a' : 'b', runtime: 'r' }));
}

const SMALL = [instance('gateway', 'g'), instance('generation', 'n'), instance('model', 'm'), instance('runtime', 'r'), ...engines(2)];

test('calls go from the gateway over generation to the engines of a runtime', () => {
  const { edges } = drawingOf(SMALL);
  expect(edges.map((edge) => edge.id).toSorted()).toEqual(['g m', 'g n', 'n e-0', 'n e-1', 'r e-0', 'r e-1']);
});

test('no two boxes overlap, and all are within the drawing', () => {
  const { nodes, width, height } = drawingOf(SMALL);
  for (const one of nodes) {
    expect(one.x).toBeGreaterThanOrEqual(0);
    expect(one.x).toBeLessThan(width);
    expect(one.y + NODE_HEIGHT).toBeLessThanOrEqual(height);
    for (const other of nodes) {
      if (one !== other && one.x === other.x) expect(Math.abs(one.y - other.y)).toBeGreaterThan(NODE_HEIGHT);
    }
  }
});

test('many engines share a box for each model', () => {
  const { nodes } = drawingOf([instance('generation', 'n'), ...engines(MAX_ENGINES + 40)]);
  const groups = nodes.filter((node) => node.instances[0]?.service === 'engine');
  expect(groups.map((node) => node.label).toSorted()).toEqual(['a', 'b']);
  expect(groups.flatMap((node) => node.instances)).toHaveLength(MAX_ENGINES + 40);
});

test('an open breaker or a lost process is seen at its box', () => {
  const lost = instance('model', 'm', {}, Health.UNREACHABLE);
  const open = create(InstanceSchema, { service: 'engine', instanceId: 'e', health: Health.SERVING, breaker: { state: BreakerState.OPEN } });
  expect(drawingOf([lost, open]).nodes.map((node) => node.tone)).toEqual(['bad', 'bad']);
});

test('an empty mesh is drawn', () => {
  const { nodes, edges, height } = drawingOf([]);
  expect([nodes, edges]).toEqual([[], []]);
  expect(height).toBeGreaterThan(0);
});

test('curves run from left to right', () => {
  const edge = drawingOf(SMALL).edges.find((one) => one.id === 'r e-0');
  const [, from, to] = /^M(\S+) .* (\S+) \S+$/.exec(pathOf(edge!)) ?? [];
  expect(Number(from)).toBeLessThan(Number(to));
});
