import { describe, expect, it } from 'vitest';
import { adopt, below, childrenOf, pathOf, selectionKey, type View } from '#lib/chat/tree.ts';
import type { Answer, Lane, Message, UserMessage } from '#lib/chat/types.ts';

let clock = 0;

function user(id: string, parent: string | null, lane: Lane = 0): UserMessage {
  return { role: 'user', id, conversation: 'c', parent, lane, createdMs: clock++, text: id };
}

function answer(id: string, parent: string | null, lane: Lane = 0): Answer {
  return { role: 'assistant', id, conversation: 'c', parent, lane, createdMs: clock++ } as Answer;
}

function view(messages: Message[], selected: Record<string, string> = {}, compare = false): View {
  return { children: childrenOf(messages), selected, compare };
}

const ids = (shown: View, lane: Lane = 0) => pathOf(shown, lane).map((step) => step.message.id);

describe('a path', () => {
  const messages = [user('u1', null), answer('a1', 'u1'), answer('a2', 'u1'), user('u2', 'a1'), user('u3', 'a2')];

  it('shows the newest branches by default', () => {
    expect(ids(view(messages))).toEqual(['u1', 'a2', 'u3']);
  });

  it('follows what was chosen, and says where each message stands', () => {
    const path = pathOf(view(messages, { [selectionKey(0, 'u1')]: 'a1' }), 0);
    expect(path.map((step) => step.message.id)).toEqual(['u1', 'a1', 'u2']);
    expect(path[1]).toMatchObject({ index: 0, siblings: [{ id: 'a1' }, { id: 'a2' }] });
  });

  it('ignores a choice that was removed', () => {
    expect(ids(view(messages, { [selectionKey(0, 'u1')]: 'gone' }))).toEqual(['u1', 'a2', 'u3']);
  });

  it('ends where messages form a circle', () => {
    const circle = [user('u1', null), { ...answer('a1', 'u1') }, { ...user('u1', 'a1') }];
    expect(ids(view(circle)).length).toBeLessThan(4);
  });

  it('is empty without messages', () => {
    expect(ids(view([]))).toEqual([]);
  });
});

describe('a comparison', () => {
  const messages = [
    user('u1', null),
    answer('left', 'u1', 0),
    answer('right', 'u1', 1),
    user('u2', 'left', 0),
    user('u2-right', 'right', 1),
    answer('left-2', 'u2', 0),
    answer('right-2', 'u2-right', 1),
  ];

  it('shows each lane its own answers below what they share', () => {
    const shown = view(messages, {}, true);
    expect(ids(shown, 0)).toEqual(['u1', 'left', 'u2', 'left-2']);
    expect(ids(shown, 1)).toEqual(['u1', 'right', 'u2-right', 'right-2']);
  });

  it('lets a lane choose among its own answers only', () => {
    const more = [...messages, answer('right-3', 'u2-right', 1)];
    const step = pathOf(view(more, {}, true), 1).at(-1);
    expect(step?.siblings.map((one) => one.id)).toEqual(['right-2', 'right-3']);
  });

  it('goes on with the other lane once it is adopted', () => {
    const selected = adopt({}, pathOf(view(messages, {}, true), 1));
    expect(ids(view(messages, selected))).toEqual(['u1', 'right', 'u2-right', 'right-2']);
  });

  it('leaves both answers to choose from when it has ended', () => {
    const step = pathOf(view(messages), 0)[1];
    expect(step?.siblings.map((one) => one.id)).toEqual(['left', 'right']);
    expect(step?.message.id).toBe('left');
  });
});

it('finds all that is removed with a message', () => {
  const messages = [user('u1', null), answer('a1', 'u1'), user('u2', 'a1'), answer('a2', 'u1')];
  const root = messages[1] as Message;
  expect(below(childrenOf(messages), root).map((one) => one.id)).toEqual(['a1', 'u2']);
});
