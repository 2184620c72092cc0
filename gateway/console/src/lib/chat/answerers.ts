import { clientOf } from '#lib/api/index.ts';
import { toApiError } from '#lib/api/errors.ts';
import { session } from '#lib/session/session.svelte.ts';
import { GenerationService } from '#gen/mlxmesh/generation/v1/generation_pb.ts';
import { Throttle } from '#lib/markdown/throttle.ts';
import { follow, type Generations } from './follow.ts';
import { toRequest } from './request.ts';
import { runCalls } from './tool_calls.ts';
import { tools, type Tools } from './tools.svelte.ts';
import type { Answer, Message, Settings } from './types.ts';

/** What there is to do for one answer. */
export interface AnswerWork {
  answer: Answer;
  /** The messages before it. */
  before: readonly Message[];
  /** Whether it was not asked for yet. */
  isNew: boolean;
  settings: Settings;
  save(): Promise<void>;
}

export interface CancellableGenerations extends Generations {
  cancel(requestId: string): Promise<unknown>;
}

const SAVED_EVERY_MS = 400;

/** Runs answers: their streams, and the calls in them. */
export class Answerers {
  #aborts = new Map<string, AbortController>();

  constructor(
    private readonly generations: CancellableGenerations,
    private readonly tools: Tools,
  ) {}

  /** Reads an answer to its end and runs its calls. Returns whether it has results to go on with. */
  async run(work: AnswerWork): Promise<boolean> {
    const { answer, settings, save } = work;
    const abort = new AbortController();
    this.#aborts.get(answer.id)?.abort();
    this.#aborts.set(answer.id, abort);
    const saving = new Throttle(() => void save());
    try {
      if (settings.tools.length > 0 && !this.tools.loaded) await this.tools.load();
      const offered = this.tools.offered(settings);
      const request = work.isNew ? toRequest(answer, work.before, settings, offered) : undefined;
      const onChange = () => saving.set(undefined, SAVED_EVERY_MS);
      await follow(answer, request, this.generations, { onChange, signal: abort.signal });
      saving.stop();
      await save();
      if (answer.state !== 'done' || answer.calls.length === 0) return false;
      return await runCalls({ answer, settings, tools: this.tools, save, signal: abort.signal });
    } finally {
      saving.stop();
      if (this.#aborts.get(answer.id) === abort) this.#aborts.delete(answer.id);
    }
  }

  /** Ends an answer; what came of it stays. */
  async stop(answer: Answer): Promise<void> {
    if (answer.state === 'running' && answer.requestId) {
      try {
        await this.generations.cancel(answer.requestId);
        return; // the stream ends by itself, with its token counts
      } catch (thrown) {
        const { reason, message } = toApiError(thrown);
        if (reason !== 'GENERATION_NOT_FOUND') console.info(`the generation was left running: ${message}`);
      }
      answer.state = 'stopped';
    }
    this.#aborts.get(answer.id)?.abort();
  }
}

const client = clientOf(GenerationService);
/** The longest that the gateway allows. */
const TIMEOUT_MS = 3_600_000;

async function* attach(requestId: string, after: number, numbering: number, signal: AbortSignal) {
  const options = { signal, timeoutMs: TIMEOUT_MS };
  for await (const { message } of client.attachGeneration({ requestId, afterSequence: BigInt(after), numbering }, options)) {
    if (message) yield message;
  }
}

const generations: CancellableGenerations = {
  generate: (request, signal) => client.generate(request, { signal, timeoutMs: TIMEOUT_MS }),
  attach,
  cancel: (requestId) => client.cancelGeneration({ requestId }),
  async renew() {
    await session.load();
    return session.isReady;
  },
};

export const answerers = new Answerers(generations, tools);
