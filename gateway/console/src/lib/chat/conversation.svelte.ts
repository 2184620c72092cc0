import { toApiError } from '#lib/api/errors.ts';
import { answerers, type Answerers } from './answerers.ts';
import { conversations, type Conversations } from './conversations.svelte.ts';
import { database, type ChatDatabase } from './database.ts';
import { newId } from './ids.ts';
import { imagesOf, keepProblem } from './images.ts';
import { adopt, below, childrenOf, lastOf, pathOf, selectionKey, type Step } from './tree.ts';
import type { Answer, ChatImage, Conversation, Lane, Message, Settings, UserMessage } from './types.ts';

const TITLE_CHARACTERS = 60;
/** Answers in a row that call tools; then the user decides whether to go on. */
export const MAX_TOOL_ROUNDS = 8;

/** The conversation that is shown: its messages, and what can be done with them. */
export class OpenConversation {
  meta = $state() as Conversation;
  messages = $state<Record<string, Message>>({});
  settings = $state() as Settings;
  selected = $state<Record<string, string>>({});

  readonly children = $derived(childrenOf(Object.values(this.messages)));
  readonly lanes: Lane[] = $derived(this.settings.compare ? [0, 1] : [0]);
  readonly paths: Step[][] = $derived(this.lanes.map((lane) => pathOf(this.#view, lane)));
  readonly running: Answer[] = $derived(
    this.paths.flatMap((path) => path.map((step) => step.message)).filter((one): one is Answer => one.role === 'assistant' && isUnfinished(one)),
  );

  constructor(
    meta: Conversation,
    messages: readonly Message[] = [],
    private readonly parts: { store: ChatDatabase; list: Conversations; answerers: Answerers } = { store: database, list: conversations, answerers },
  ) {
    this.meta = meta;
    this.settings = meta.settings;
    this.selected = meta.selected;
    this.messages = Object.fromEntries(messages.map((one) => [one.id, one]));
  }

  get #view() {
    return { children: this.children, selected: this.selected, compare: this.settings.compare };
  }

  path(lane: Lane): Step[] {
    return this.paths[lane] ?? [];
  }

  /** Goes on with the answers that ran when the page was left. */
  resume(): void {
    for (const message of Object.values(this.messages)) {
      if (message.role === 'assistant' && isUnfinished(message)) void this.#run(message, false);
    }
  }

  /** Sends a text with images at the end of every lane. */
  async send(text: string, images: ChatImage[] = []): Promise<void> {
    const ends = new Map(this.lanes.map((lane) => [lane, lastOf(this.path(lane))?.id ?? null]));
    const shared = new Set(ends.values()).size === 1;
    const asked = new Map<Lane, UserMessage>();
    for (const lane of this.lanes) {
      const first = asked.get(0);
      asked.set(lane, shared && first ? first : await this.#addUser(ends.get(lane) ?? null, lane, text, images));
    }
    for (const [lane, message] of asked) void this.#answer(message, lane);
    await this.touch(text || (images[0]?.name ?? ''));
  }

  /** Sends another text in the place of a message, with its images. Fails where no more of them can be kept. */
  async edit(message: UserMessage, text: string): Promise<void> {
    // The bytes are shared; the database takes no proxies.
    const images = imagesOf([message]).map((one) => ({ ...one }));
    const problem = images.length > 0 && keepProblem(Object.values(this.messages), images);
    if (problem) throw new Error(problem);
    const edited = await this.#addUser(message.parent, message.lane, text, images);
    const shared = message.lane === 0 && this.lanes.every((lane) => this.path(lane).some((step) => step.message.id === edited.id));
    for (const lane of shared ? this.lanes : [message.lane]) void this.#answer(edited, lane);
    await this.touch(text);
  }

  /** Asks again for an answer. */
  regenerate(answer: Answer): void {
    const parent = answer.parent === null ? undefined : this.messages[answer.parent];
    if (parent) void this.#answer(parent, this.#lane(answer));
  }

  /** Goes on after the results of an answer's calls. */
  goOn(answer: Answer): void {
    void this.#answer(answer, this.#lane(answer));
  }

  /** Reads an answer whose reading was lost, or that another page reads. */
  async reread(answer: Answer): Promise<void> {
    answer.state = 'running';
    answer.error = null;
    await this.#run(answer, false);
  }

  async stop(answer: Answer): Promise<void> {
    await this.parts.answerers.stop(answer);
  }

  /** Shows the sibling before (-1) or after (1) a message. */
  select(step: Step, by: number): void {
    const next = step.siblings[step.index + by];
    if (!next) return;
    this.#choose(next);
    void this.save();
  }

  /** Ends a comparison; the conversation goes on with what one lane shows. */
  keepLane(lane: Lane): void {
    Object.assign(this.selected, adopt(this.selected, this.path(lane)));
    const { models } = this.settings;
    this.settings.models = lane === 0 ? models : [models[1], models[0]];
    this.settings.compare = false;
    void this.save();
  }

  async remove(message: Message): Promise<void> {
    const gone = below(this.children, message);
    for (const one of gone) {
      if (one.role === 'assistant' && isUnfinished(one)) await this.stop(one);
      delete this.messages[one.id];
    }
    await this.parts.store.removeMessages(gone.map((one) => one.id));
  }

  async rename(title: string): Promise<void> {
    this.meta.title = title.trim() || this.meta.title;
    this.meta.named = true;
    await this.save();
  }

  /** Marks the conversation as used, and names it by its first text. */
  async touch(text: string): Promise<void> {
    this.meta.updatedMs = Date.now();
    if (!this.meta.named) {
      this.meta.named = true;
      this.meta.title = titleOf(text);
    }
    await this.save();
  }

  async save(): Promise<void> {
    const { meta, settings, selected } = this;
    await this.parts.list.put($state.snapshot({ ...meta, settings, selected }) as Conversation);
  }

  async #addUser(parent: string | null, lane: Lane, text: string, images: ChatImage[]): Promise<UserMessage> {
    const message: UserMessage = { role: 'user', id: newId(), conversation: this.meta.id, parent, lane, createdMs: Date.now(), text };
    return (await this.#add(images.length > 0 ? { ...message, images } : message)) as UserMessage;
  }

  /** The lane that goes on from a message. */
  #lane(message: Message): Lane {
    return this.settings.compare ? message.lane : 0;
  }

  async #answer(parent: Message, lane: Lane): Promise<void> {
    const model = this.settings.models[lane] || this.settings.models[0];
    const { output, schema } = this.settings;
    const answer = (await this.#add(newAnswer(this.meta.id, parent.id, lane, model, output === 'schema' ? schema : ''))) as Answer;
    await this.#run(answer, true);
  }

  async #add(message: Message): Promise<Message> {
    this.messages[message.id] = message;
    this.#choose(message);
    await this.parts.store.putMessage(message);
    // The reactive one, whose changes are seen.
    return this.messages[message.id] ?? message;
  }

  #choose(message: Message): void {
    const lane = this.settings.compare ? message.lane : 0;
    this.selected[selectionKey(lane, message.parent)] = message.id;
  }

  async #run(answer: Answer, isNew: boolean): Promise<void> {
    try {
      const before = this.#before(answer);
      const work = { answer, before, isNew, settings: this.settings, save: () => this.#store(answer) };
      const hasResults = await this.parts.answerers.run(work);
      if (hasResults && rounds(before) < MAX_TOOL_ROUNDS) this.goOn(answer);
    } catch (thrown) {
      answer.state = 'failed';
      answer.error = toApiError(thrown);
      await this.#store(answer);
    }
  }

  async #store(message: Message): Promise<void> {
    // A message that was removed meanwhile stays removed.
    if (message.id in this.messages) await this.parts.store.putMessage($state.snapshot(message) as Message);
  }

  /** The messages from the first one to an answer's parent. */
  #before(answer: Answer): Message[] {
    const found: Message[] = [];
    for (let id = answer.parent; id !== null; ) {
      const message: Message | undefined = this.messages[id];
      if (!message) break;
      found.unshift(message);
      id = message.parent;
    }
    return found;
  }
}

/** How many answers in a row end a path. */
function rounds(path: readonly Message[]): number {
  return path.length - 1 - path.findLastIndex((one) => one.role === 'user');
}

/** Whether an answer runs, or waits for results of its calls. */
export function isUnfinished(answer: Answer): boolean {
  const waits = answer.state === 'done' && answer.calls.some((call) => UNFINISHED_CALLS.has(call.state));
  return answer.state === 'running' || waits;
}

const UNFINISHED_CALLS = new Set(['waiting', 'asking', 'running']);

function titleOf(text: string): string {
  const line = text.trim().split('\n', 1)[0] ?? '';
  return line.length > TITLE_CHARACTERS ? `${line.slice(0, TITLE_CHARACTERS).trimEnd()}…` : line || 'New conversation';
}

function newAnswer(conversation: string, parent: string, lane: Lane, model: string, schema: string): Answer {
  const id = newId();
  return {
    role: 'assistant',
    id,
    conversation,
    parent,
    lane,
    createdMs: Date.now(),
    model,
    version: '',
    text: '',
    reasoning: '',
    calls: [],
    requestId: `console-${id}`,
    sequence: 0,
    tokens: 0,
    state: 'running',
    finishReason: '',
    error: null,
    sentMs: Date.now(),
    firstMs: 0,
    seed: '',
    usage: null,
    timings: null,
    cost: 0,
    schema,
  };
}
