import type { Instance } from '#gen/mlxmesh/telemetry/v1/telemetry_pb.ts';
import { toneOf, worstOf, type Tone } from './health.ts';

/** A box of the drawing: one instance, or the engines of one model where there are many. */
export interface Node {
  id: string;
  label: string;
  detail: string;
  tone: Tone;
  x: number;
  y: number;
  /** The instances that it stands for. */
  instances: readonly Instance[];
}

export interface Edge {
  id: string;
  from: Node;
  to: Node;
  tone: Tone;
}

export interface Drawing {
  width: number;
  height: number;
  nodes: Node[];
  edges: Edge[];
}

export const NODE_WIDTH = 176;
export const NODE_HEIGHT = 40;
const COLUMN_GAP = 72;
const ROW_GAP = 14;
const MARGIN = 8;
/** With more engines, those of a model share a box. */
export const MAX_ENGINES = 10;

const COLUMNS: readonly (readonly string[])[] = [['gateway'], ['generation', 'model', 'access', 'jobs', 'tools'], ['engine', 'worker'], ['runtime']];
const CALLS: readonly (readonly [string, string])[] = [
  ['gateway', 'generation'],
  ['gateway', 'model'],
  ['gateway', 'access'],
  ['gateway', 'jobs'],
  ['gateway', 'tools'],
  ['generation', 'engine'],
  ['jobs', 'worker'],
  ['runtime', 'engine'],
];

/** Where the processes of a mesh are drawn, and who calls whom. */
export function drawingOf(instances: readonly Instance[]): Drawing {
  const columns = COLUMNS.map((services) => services.flatMap((service) => nodesOf(service, instances)));
  const rows = Math.max(1, ...columns.map((column) => column.length));
  const height = rows * NODE_HEIGHT + (rows - 1) * ROW_GAP + 2 * MARGIN;
  columns.forEach((column, at) => place(column, MARGIN + at * (NODE_WIDTH + COLUMN_GAP), height));
  const nodes = columns.flat();
  const width = columns.length * NODE_WIDTH + (columns.length - 1) * COLUMN_GAP + 2 * MARGIN;
  return { width, height, nodes, edges: edgesOf(nodes) };
}

function nodesOf(service: string, all: readonly Instance[]): Node[] {
  const instances = all.filter((one) => one.service === service);
  if (service === 'engine' && instances.length > MAX_ENGINES) return groupsOf(instances);
  return instances.map((one) => ({
    id: one.instanceId,
    label: service === 'engine' ? one.metadata.model || one.instanceId : service,
    detail: service === 'engine' ? one.instanceId : one.metadata.host || one.address,
    tone: toneOf(one),
    x: 0,
    y: 0,
    instances: [one],
  }));
}

function groupsOf(engines: readonly Instance[]): Node[] {
  const groups = Map.groupBy(engines, (one) => one.metadata.model ?? '');
  return [...groups].map(([model, members]) => ({
    id: `engines of ${model}`,
    label: model || 'engines',
    detail: `${members.length} engines`,
    tone: worstOf(members.map(toneOf)),
    x: 0,
    y: 0,
    instances: members,
  }));
}

function place(column: Node[], x: number, height: number): void {
  const used = column.length * NODE_HEIGHT + (column.length - 1) * ROW_GAP;
  column.forEach((node, at) => {
    node.x = x;
    node.y = (height - used) / 2 + at * (NODE_HEIGHT + ROW_GAP);
  });
}

function edgesOf(nodes: readonly Node[]): Edge[] {
  const of = (service: string) => nodes.filter((node) => node.instances[0]?.service === service);
  return CALLS.flatMap(([caller, called]) =>
    of(caller).flatMap((from) =>
      of(called)
        .filter((to) => caller !== 'runtime' || supervises(from, to))
        .map((to) => ({ id: `${from.id} ${to.id}`, from, to, tone: to.tone })),
    ),
  );
}

function supervises(runtime: Node, engines: Node): boolean {
  return engines.instances.some((one) => one.metadata.runtime === runtime.id);
}

/** The curve between two boxes, whichever is further left. */
export function pathOf({ from, to }: Edge): string {
  const [left, right] = from.x <= to.x ? [from, to] : [to, from];
  const [x1, y1] = [left.x + NODE_WIDTH, left.y + NODE_HEIGHT / 2];
  const [x2, y2] = [right.x, right.y + NODE_HEIGHT / 2];
  const middle = (x1 + x2) / 2;
  return `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
}
