import { openDB, type DBSchema, type IDBPDatabase } from 'idb';
import type { Conversation, Message } from './types.ts';

interface Schema extends DBSchema {
  conversations: { key: string; value: Conversation; indexes: { updated: number } };
  messages: { key: string; value: Message; indexes: { conversation: string } };
}

/** The conversations of this browser, in IndexedDB. They are stored nowhere else. */
export class ChatDatabase {
  #opened: Promise<IDBPDatabase<Schema>> | undefined;

  constructor(private readonly name = 'mlxmesh-chat') {}

  #open(): Promise<IDBPDatabase<Schema>> {
    this.#opened ??= openDB<Schema>(this.name, 1, {
      upgrade(database) {
        database.createObjectStore('conversations', { keyPath: 'id' }).createIndex('updated', 'updatedMs');
        database.createObjectStore('messages', { keyPath: 'id' }).createIndex('conversation', 'conversation');
      },
    });
    return this.#opened;
  }

  /** All conversations, the latest first. */
  async list(): Promise<Conversation[]> {
    return (await (await this.#open()).getAllFromIndex('conversations', 'updated')).reverse();
  }

  async get(id: string): Promise<Conversation | undefined> {
    return (await this.#open()).get('conversations', id);
  }

  async messagesOf(conversation: string): Promise<Message[]> {
    return (await this.#open()).getAllFromIndex('messages', 'conversation', conversation);
  }

  async putConversation(conversation: Conversation): Promise<void> {
    await (await this.#open()).put('conversations', conversation);
  }

  async putMessage(message: Message): Promise<void> {
    await (await this.#open()).put('messages', message);
  }

  async removeMessages(ids: readonly string[]): Promise<void> {
    const transaction = (await this.#open()).transaction('messages', 'readwrite');
    await Promise.all([...ids.map((id) => transaction.store.delete(id)), transaction.done]);
  }

  async remove(conversation: string): Promise<void> {
    const transaction = (await this.#open()).transaction(['conversations', 'messages'], 'readwrite');
    const messages = transaction.objectStore('messages');
    const keys = await messages.index('conversation').getAllKeys(conversation);
    await Promise.all([...keys.map((key) => messages.delete(key)), transaction.objectStore('conversations').delete(conversation), transaction.done]);
  }
}

export const database = new ChatDatabase();
