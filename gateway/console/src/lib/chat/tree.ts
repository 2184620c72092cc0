import type { Lane, Message } from './types.ts';

/**
 * Messages form a tree: editing a message or asking again adds a sibling, and nothing is lost. A lane of a
 * conversation shows one path through it, chosen by `selected`. The lanes of a comparison share their path up to
 * the first answers that differ.
 */

const ROOT = 'root';

export function selectionKey(lane: Lane, parent: string | null): string {
  return `${lane}:${parent ?? ROOT}`;
}

/** The children of each message, oldest first; those without a parent are children of null. */
export function childrenOf(messages: Iterable<Message>): Map<string | null, Message[]> {
  const found = new Map<string | null, Message[]>();
  for (const message of messages) {
    const list = found.get(message.parent);
    if (list) list.push(message);
    else found.set(message.parent, [message]);
  }
  for (const list of found.values()) list.sort((one, other) => one.createdMs - other.createdMs || one.lane - other.lane);
  return found;
}

/** A message on a path, and where it stands among those that could stand there. */
export interface Step {
  message: Message;
  /** Its siblings in this lane, itself included. */
  siblings: Message[];
  index: number;
}

/** What decides which path is shown. */
export interface View {
  children: Map<string | null, Message[]>;
  selected: Record<string, string>;
  compare: boolean;
}

/** The messages that a lane shows, first to last. */
export function pathOf(view: View, lane: Lane): Step[] {
  const path: Step[] = [];
  const seen = new Set<string | null>();
  let parent: string | null = null;
  while (!seen.has(parent)) {
    seen.add(parent);
    const siblings = candidates(view, lane, parent);
    const index = chosen(view, lane, parent, siblings);
    const message = siblings[index];
    if (!message) break;
    path.push({ message, siblings, index });
    parent = message.id;
  }
  return path;
}

/** What can be shown below a message: in a comparison the lane's own ones, else those that both lanes share. */
function candidates({ children, compare }: View, lane: Lane, parent: string | null): Message[] {
  const all = children.get(parent) ?? [];
  if (!compare) return all;
  const own = all.filter((one) => one.lane === lane);
  return own.length > 0 ? own : all.filter((one) => one.lane === 0);
}

function chosen({ selected, compare }: View, lane: Lane, parent: string | null, siblings: Message[]): number {
  for (const key of [selectionKey(lane, parent), selectionKey(0, parent)]) {
    const at = siblings.findIndex((one) => one.id === selected[key]);
    if (at >= 0) return at;
  }
  return compare ? siblings.length - 1 : Math.max(siblings.findLastIndex((one) => one.lane === 0), siblings.length ? 0 : -1);
}

/** The last message of a path; null for an empty one. */
export function lastOf(path: Step[]): Message | null {
  return path.at(-1)?.message ?? null;
}

/** A selection in which the first lane shows what another one does. */
export function adopt(selected: Record<string, string>, path: Step[]): Record<string, string> {
  const next = { ...selected };
  for (const { message } of path) next[selectionKey(0, message.parent)] = message.id;
  return next;
}

/** All messages below one, itself included. */
export function below(children: Map<string | null, Message[]>, message: Message): Message[] {
  const found = [message];
  for (const one of found) found.push(...(children.get(one.id) ?? []));
  return found;
}
