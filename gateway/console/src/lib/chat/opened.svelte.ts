import { OpenConversation, isUnfinished } from './conversation.svelte.ts';
import { conversations } from './conversations.svelte.ts';
import { database } from './database.ts';
import type { Conversation, Message } from './types.ts';

/** Conversations that were opened here. Those with running answers go on while another page is shown. */
const opened = new Map<string, OpenConversation>();

/** The conversation with this id; undefined for an unknown one. */
export async function openConversation(id: string): Promise<OpenConversation | undefined> {
  const known = opened.get(id);
  if (known) return known;
  const meta = await database.get(id);
  if (!meta) return undefined;
  const conversation = outlivingPages(meta, await database.messagesOf(id));
  keep(conversation);
  conversation.resume();
  return conversation;
}

/** A new conversation, which is stored with its first message. */
export function newConversation(): OpenConversation {
  return outlivingPages(conversations.begin());
}

/** A conversation whose derived state does not end with the page that opened it. */
function outlivingPages(meta: Conversation, messages: readonly Message[] = []): OpenConversation {
  let made: OpenConversation | undefined;
  $effect.root(() => {
    made = new OpenConversation(meta, messages);
  });
  return made as OpenConversation;
}

/** Remembers a conversation, so that it is read once. */
export function keep(conversation: OpenConversation): void {
  for (const [id, other] of opened) {
    const runs = Object.values(other.messages).some((one) => one.role === 'assistant' && isUnfinished(one));
    if (!runs) opened.delete(id);
  }
  opened.set(conversation.meta.id, conversation);
}

export async function removeConversation(id: string): Promise<void> {
  const conversation = opened.get(id);
  if (conversation) await Promise.all(conversation.running.map((answer) => conversation.stop(answer)));
  opened.delete(id);
  await conversations.remove(id);
}
