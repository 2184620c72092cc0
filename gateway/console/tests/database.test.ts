import 'fake-indexeddb/auto';
import { beforeEach, describe, expect, it } from 'vitest';
import type { AnswerWork, Answerers } from '#lib/chat/answerers.ts';
import { OpenConversation } from '#lib/chat/conversation.svelte.ts';
import { Conversations } from '#lib/chat/conversations.svelte.ts';
import { ChatDatabase } from '#lib/chat/database.ts';
import type { Answer, Call, UserMessage } from '#lib/chat/types.ts';

/** Answers at once, by a text made from what was asked. */
class Echo {
  readonly asked: string[] = [];
  calls: Call[] = [];
  hasResults = false;

  async run({ answer, before, save }: AnswerWork): Promise<boolean> {
    const last = before.at(-1);
    this.asked.push(`${answer.model}: ${last?.role === 'user' ? last.text : 'results'}`);
    answer.text = `answer to ${last?.id}`;
    answer.state = 'done';
    answer.calls = this.calls;
    await save();
    return this.hasResults;
  }

  stop(answer: Answer): Promise<void> {
    answer.state = 'stopped';
    return Promise.resolve();
  }
}

let store: ChatDatabase;
let list: Conversations;
let echo: Echo;
let databases = 0;

beforeEach(() => {
  localStorage.clear();
  store = new ChatDatabase(`test-${databases++}`);
  list = new Conversations(store);
  echo = new Echo();
});

function open(): OpenConversation {
  const meta = list.begin();
  meta.settings.models = ['left', 'right'];
  return new OpenConversation(meta, [], { store, list, answerers: echo as unknown as Answerers });
}

async function reopened(id: string): Promise<OpenConversation> {
  const meta = await store.get(id);
  if (!meta) throw new Error('it is not stored');
  return new OpenConversation(meta, await store.messagesOf(id), { store, list, answerers: echo as unknown as Answerers });
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 20));
const texts = (conversation: OpenConversation, lane: 0 | 1 = 0) => conversation.path(lane).map((step) => (step.message.role === 'user' ? step.message.text : step.message.model));

describe('a conversation', () => {
  it('is stored with its messages, and named by the first', async () => {
    const conversation = open();
    await conversation.send('hello\nthere');
    await settled();
    const again = await reopened(conversation.meta.id);
    expect(again.meta.title).toBe('hello');
    expect(texts(again)).toEqual(['hello\nthere', 'left']);
    await list.load();
    expect(list.list.map((one) => one.id)).toEqual([conversation.meta.id]);
  });

  it('keeps the former branch of an edit', async () => {
    const conversation = open();
    await conversation.send('one');
    await settled();
    await conversation.edit(conversation.path(0)[0]!.message as UserMessage, 'two');
    await settled();
    expect(texts(conversation)).toEqual(['two', 'left']);
    conversation.select(conversation.path(0)[0]!, -1);
    expect(texts(conversation)).toEqual(['one', 'left']);
    await settled();
    expect(texts(await reopened(conversation.meta.id))).toEqual(['one', 'left']);
  });

  it('asks again beside the former answer', async () => {
    const conversation = open();
    await conversation.send('one');
    await settled();
    conversation.regenerate(conversation.path(0)[1]!.message as Answer);
    await settled();
    expect(conversation.path(0)[1]).toMatchObject({ index: 1, siblings: [{}, {}] });
  });

  it('asks both models in a comparison, each with its own answers', async () => {
    const conversation = open();
    conversation.settings.compare = true;
    await conversation.send('one');
    await settled();
    await conversation.send('two');
    await settled();
    expect(texts(conversation, 0)).toEqual(['one', 'left', 'two', 'left']);
    expect(texts(conversation, 1)).toEqual(['one', 'right', 'two', 'right']);
    expect(echo.asked).toEqual(['left: one', 'right: one', 'left: two', 'right: two']);
    conversation.keepLane(1);
    expect(texts(conversation)).toEqual(['one', 'right', 'two', 'right']);
    await conversation.send('three');
    await settled();
    expect(echo.asked.at(-1)).toBe('right: three');
  });

  it('edits what both lanes share for both', async () => {
    const conversation = open();
    conversation.settings.compare = true;
    await conversation.send('one');
    await settled();
    await conversation.edit(conversation.path(1)[0]!.message as UserMessage, 'new');
    await settled();
    expect(texts(conversation, 0)).toEqual(['new', 'left']);
    expect(texts(conversation, 1)).toEqual(['new', 'right']);
  });

  it('goes on with results of tools, and stops after eight answers in a row', async () => {
    const conversation = open();
    echo.hasResults = true;
    await conversation.send('one');
    await settled();
    expect(echo.asked).toHaveLength(9);
    expect(echo.asked.slice(1)).toEqual(Array.from({ length: 8 }, () => 'left: results'));
  });

  it('reads on after a reload what ran before', async () => {
    const conversation = open();
    await conversation.send('one');
    await settled();
    const answer = conversation.path(0)[1]!.message as Answer;
    await store.putMessage({ ...copy(answer), state: 'running' });
    echo.asked.length = 0;
    const again = await reopened(conversation.meta.id);
    again.resume();
    await settled();
    expect(echo.asked).toEqual(['left: one']);
  });

  it('removes a message with all below it', async () => {
    const conversation = open();
    await conversation.send('one');
    await settled();
    await conversation.remove(conversation.path(0)[0]!.message);
    expect(await store.messagesOf(conversation.meta.id)).toEqual([]);
    expect(conversation.path(0)).toEqual([]);
  });
});

it('removes all messages of a conversation', async () => {
  const [one, other] = [open(), open()];
  await one.send('a');
  await other.send('b');
  await settled();
  await list.remove(one.meta.id);
  expect(await store.messagesOf(one.meta.id)).toEqual([]);
  expect(await store.messagesOf(other.meta.id)).toHaveLength(2);
});

it('begins with the last settings, but with no tool allowed', async () => {
  const conversation = open();
  Object.assign(conversation.settings, { system: 'be brief', tools: ['a__b'], always: ['a__b'] });
  await conversation.save();
  expect(list.begin().settings).toMatchObject({ system: 'be brief', tools: ['a__b'], always: [] });
});

/** A copy without the proxy. */
function copy<T>(value: T): T {
  return JSON.parse(JSON.stringify(value)) as T;
}
