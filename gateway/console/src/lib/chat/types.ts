import type { ApiError } from '#lib/api/errors.ts';

/** One of the two columns of a comparison; a plain conversation has only the first. */
export type Lane = 0 | 1;

export type AnswerState = 'running' | 'done' | 'stopped' | 'failed' | 'elsewhere';

export type CallState = 'waiting' | 'asking' | 'running' | 'done' | 'denied' | 'failed';

/** A call of a tool in an answer, and its result. */
export interface Call {
  id: string;
  name: string;
  /** JSON, as the model wrote it. */
  arguments: string;
  state: CallState;
  /** What the model is given. */
  result: string;
  isError: boolean;
  durationMs: number;
}

export interface Usage {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
  reasoningTokens: number;
}

/** Times of an answer, in milliseconds; the first is measured here, the others by the engine. */
export interface Timings {
  ttftMs: number;
  queueMs: number;
  prefillMs: number;
  decodeMs: number;
  resumptions: number;
}

interface Node {
  id: string;
  conversation: string;
  /** null for a first message. */
  parent: string | null;
  createdMs: number;
  lane: Lane;
}

/** An image of a message: its file as it was. */
export interface ChatImage {
  name: string;
  /** Such as image/png, by its first bytes. */
  type: string;
  bytes: Uint8Array<ArrayBuffer>;
}

export interface UserMessage extends Node {
  role: 'user';
  text: string;
  /** Absent for none. */
  images?: ChatImage[];
}

export interface Answer extends Node {
  role: 'assistant';
  /** The model as it was asked for: a name, name@version or name:alias. */
  model: string;
  /** The one that answers: name@version. */
  version: string;
  text: string;
  reasoning: string;
  calls: Call[];
  requestId: string;
  /** The last message of the stream that is in this answer; 0 for none. */
  sequence: number;
  /** Who numbered that message; absent in answers of earlier versions. */
  numbering?: number;
  /** Tokens so far. */
  tokens: number;
  state: AnswerState;
  /** stop, length, cancelled or tool_calls. */
  finishReason: string;
  error: ApiError | null;
  /** When the request was sent and when its first output came, by this browser's clock; 0 for not yet. */
  sentMs: number;
  firstMs: number;
  seed: string;
  usage: Usage | null;
  timings: Timings | null;
  cost: number;
  /** The schema that the answer had to satisfy. */
  schema: string;
}

export type Message = UserMessage | Answer;

export interface Settings {
  /** The models of the two lanes. */
  models: [string, string];
  compare: boolean;
  system: string;
  temperature: number | null;
  topP: number | null;
  topK: number | null;
  minP: number | null;
  repetitionPenalty: number | null;
  presencePenalty: number | null;
  frequencyPenalty: number | null;
  maxTokens: number | null;
  /** A whole number, as text: it may have 64 bits. */
  seed: string;
  stop: string[];
  reasoning: 'default' | 'on' | 'off';
  effort: 'default' | 'minimal' | 'low' | 'medium' | 'high';
  budgetTokens: number | null;
  output: 'text' | 'json' | 'schema';
  schema: string;
  /** The names for models of the tools that may be called. */
  tools: string[];
  /** Those of them whose calls need no question in this conversation. */
  always: string[];
}

export interface Conversation {
  id: string;
  title: string;
  /** Whether the title was written by the user. */
  named: boolean;
  createdMs: number;
  updatedMs: number;
  settings: Settings;
  /** Which child is shown, by lane and parent, see `tree.ts`. */
  selected: Record<string, string>;
}

export const DEFAULT_SETTINGS: Settings = {
  models: ['', ''],
  compare: false,
  system: '',
  temperature: null,
  topP: null,
  topK: null,
  minP: null,
  repetitionPenalty: null,
  presencePenalty: null,
  frequencyPenalty: null,
  maxTokens: null,
  seed: '',
  stop: [],
  reasoning: 'default',
  effort: 'default',
  budgetTokens: null,
  output: 'text',
  schema: '',
  tools: [],
  always: [],
};
