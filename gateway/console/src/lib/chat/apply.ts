import { FinishReason, type Delta, type Finished, type GenerateResponse, type ToolCall } from '#gen/mlxmesh/generation/v1/generation_pb.ts';
import type { Answer, Call } from './types.ts';

const REASONS: Record<FinishReason, string> = {
  [FinishReason.UNSPECIFIED]: '',
  [FinishReason.STOP]: 'stop',
  [FinishReason.LENGTH]: 'length',
  [FinishReason.CANCELLED]: 'cancelled',
  [FinishReason.TOOL_CALLS]: 'tool_calls',
};

/** Adds one message of a stream to an answer. One that the answer has already is left out. */
export function applyResponse(answer: Answer, response: GenerateResponse, nowMs: number): void {
  const sequence = Number(response.sequence);
  if (sequence <= answer.sequence) return;
  answer.sequence = sequence;
  answer.numbering = response.numbering;
  const { event } = response;
  if (event.case === 'started') {
    answer.version = `${event.value.model}@${event.value.modelVersion}`;
    answer.seed = String(event.value.seed);
  } else if (event.case === 'delta') applyDelta(answer, event.value, nowMs);
  else if (event.case === 'finished') applyFinished(answer, event.value, nowMs);
}

function applyDelta(answer: Answer, delta: Delta, nowMs: number): void {
  if (answer.firstMs === 0) answer.firstMs = nowMs;
  answer.text += delta.text;
  answer.reasoning += delta.reasoningText;
  answer.tokens += delta.tokenIds.length;
  for (const piece of delta.toolCalls) applyCall(answer.calls, piece);
}

function applyCall(calls: Call[], piece: ToolCall): void {
  const known = calls[piece.index];
  if (known) {
    known.arguments += piece.arguments;
    return;
  }
  calls[piece.index] = {
    id: piece.id,
    name: piece.name,
    arguments: piece.arguments,
    state: 'waiting',
    result: '',
    isError: false,
    durationMs: 0,
  };
}

function applyFinished(answer: Answer, finished: Finished, nowMs: number): void {
  answer.finishReason = REASONS[finished.finishReason];
  answer.state = finished.finishReason === FinishReason.CANCELLED ? 'stopped' : 'done';
  answer.cost = finished.cost;
  if (answer.firstMs === 0) answer.firstMs = nowMs;
  const { usage, timings } = finished;
  if (usage) {
    answer.usage = {
      promptTokens: usage.promptTokens,
      cachedTokens: usage.cachedTokens,
      completionTokens: usage.completionTokens,
      reasoningTokens: usage.reasoningTokens,
    };
  }
  if (timings) {
    answer.timings = {
      ttftMs: answer.firstMs - answer.sentMs,
      queueMs: timings.queueMs,
      prefillMs: timings.prefillMs,
      decodeMs: timings.decodeMs,
      resumptions: timings.resumptions,
    };
  }
}

/** Tokens a second while an answer is decoded; undefined until that is known. */
export function tokensPerSecond(answer: Answer): number | undefined {
  const { timings, usage } = answer;
  if (!timings || !usage || timings.decodeMs <= 0 || usage.completionTokens < 2) return undefined;
  return ((usage.completionTokens - 1) / timings.decodeMs) * 1000;
}
