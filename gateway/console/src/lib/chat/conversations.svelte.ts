import { toasts } from '#lib/toasts.svelte.ts';
import { database, type ChatDatabase } from './database.ts';
import { newId } from './ids.ts';
import { DEFAULT_SETTINGS, type Conversation, type Settings } from './types.ts';

const SETTINGS_KEY = 'mlxmesh.chat.settings';

/** The list of conversations. */
export class Conversations {
  list = $state.raw<Conversation[]>([]);
  loaded = $state(false);

  constructor(private readonly store: ChatDatabase = database) {}

  async load(): Promise<void> {
    try {
      this.list = await this.store.list();
    } catch {
      toasts.bad('The browser did not open its database: conversations are not kept.');
    }
    this.loaded = true;
  }

  /** A conversation that begins with the settings of the last one. It is stored with its first message. */
  begin(): Conversation {
    const now = Date.now();
    return {
      id: newId(),
      title: 'New conversation',
      named: false,
      createdMs: now,
      updatedMs: now,
      settings: lastSettings(),
      selected: {},
    };
  }

  async put(conversation: Conversation): Promise<void> {
    const others = this.list.filter((one) => one.id !== conversation.id);
    this.list = [conversation, ...others].sort((one, other) => other.updatedMs - one.updatedMs);
    rememberSettings(conversation.settings);
    await this.store.putConversation(conversation);
  }

  async remove(id: string): Promise<void> {
    this.list = this.list.filter((one) => one.id !== id);
    await this.store.remove(id);
  }
}

function lastSettings(): Settings {
  try {
    const stored = JSON.parse(localStorage.getItem(SETTINGS_KEY) ?? '{}') as Partial<Settings>;
    // What was allowed in one conversation is not allowed in the next.
    return { ...structuredClone(DEFAULT_SETTINGS), ...stored, always: [] };
  } catch {
    return structuredClone(DEFAULT_SETTINGS);
  }
}

function rememberSettings(settings: Settings): void {
  localStorage.setItem(SETTINGS_KEY, JSON.stringify(settings));
}

export const conversations = new Conversations();
