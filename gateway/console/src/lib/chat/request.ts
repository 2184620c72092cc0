import { create } from '@bufbuild/protobuf';
import { SamplingSchema, type Sampling } from '#gen/mlxmesh/common/v1/sampling_pb.ts';
import {
  ChatInputSchema,
  ChatMessageSchema,
  ContentPartSchema,
  GenerateRequestSchema,
  ImageSchema,
  JsonObjectSchema,
  ReasoningEffort,
  ReasoningSchema,
  Role,
  ToolCallSchema,
  ToolSchema,
  type ChatMessage,
  type ContentPart,
  type GenerateRequest,
  type Tool,
} from '#gen/mlxmesh/generation/v1/generation_pb.ts';
import type { Answer, Call, ChatImage, Message, Settings, UserMessage } from './types.ts';

/** A tool that the model may call. */
export interface OfferedTool {
  function: string;
  description: string;
  schema: string;
}

const EFFORTS: Record<Settings['effort'], ReasoningEffort> = {
  default: ReasoningEffort.UNSPECIFIED,
  minimal: ReasoningEffort.MINIMAL,
  low: ReasoningEffort.LOW,
  medium: ReasoningEffort.MEDIUM,
  high: ReasoningEffort.HIGH,
};

/** The request whose answer continues a path. */
export function toRequest(answer: Answer, path: readonly Message[], settings: Settings, tools: readonly OfferedTool[]): GenerateRequest {
  const system = settings.system.trim() ? [create(ChatMessageSchema, { role: Role.SYSTEM, content: settings.system })] : [];
  const messages = [...system, ...path.flatMap(toChatMessages)];
  return create(GenerateRequestSchema, {
    model: answer.model,
    input: { case: 'chat', value: create(ChatInputSchema, { messages }) },
    requestId: answer.requestId,
    sessionId: answer.conversation,
    maxTokens: settings.maxTokens ?? undefined,
    sampling: toSampling(settings),
    stop: settings.stop.filter(Boolean),
    reasoning: toReasoning(settings),
    tools: tools.map(toTool),
    constraint: toConstraint(settings, tools.length > 0),
  });
}

function toChatMessages(message: Message): ChatMessage[] {
  if (message.role === 'user') return [toUserMessage(message)];
  const calls = message.calls.filter((call) => call.name);
  const answer = create(ChatMessageSchema, {
    role: Role.ASSISTANT,
    content: message.text,
    toolCalls: calls.map((call, index) => create(ToolCallSchema, { index, id: call.id, name: call.name, arguments: objectOr(call.arguments) })),
  });
  return [answer, ...calls.map(toResult)];
}

/** Images come before the text, as models were trained. */
function toUserMessage({ text, images = [] }: UserMessage): ChatMessage {
  if (images.length === 0) return create(ChatMessageSchema, { role: Role.USER, content: text });
  const parts = [...images.map(toImagePart), ...(text ? [create(ContentPartSchema, { part: { case: 'text', value: text } })] : [])];
  return create(ChatMessageSchema, { role: Role.USER, parts });
}

function toImagePart({ bytes }: ChatImage): ContentPart {
  return create(ContentPartSchema, { part: { case: 'image', value: create(ImageSchema, { source: { case: 'data', value: bytes } }) } });
}

function toResult(call: Call): ChatMessage {
  return create(ChatMessageSchema, { role: Role.TOOL, content: call.result, toolCallId: call.id, toolName: call.name });
}

/** What a model wrote may be no JSON object; the contract takes only one. */
function objectOr(text: string): string {
  return parseObject(text) ? text : '{}';
}

/** The JSON object of a text; undefined for anything else. */
export function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text || '{}');
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function toSampling(settings: Settings): Sampling {
  return create(SamplingSchema, {
    temperature: settings.temperature ?? undefined,
    topP: settings.topP ?? undefined,
    topK: settings.topK ?? undefined,
    minP: settings.minP ?? undefined,
    repetitionPenalty: settings.repetitionPenalty ?? undefined,
    presencePenalty: settings.presencePenalty ?? undefined,
    frequencyPenalty: settings.frequencyPenalty ?? undefined,
    seed: settings.seed ? BigInt(settings.seed) : undefined,
  });
}

function toReasoning(settings: Settings): GenerateRequest['reasoning'] {
  const { reasoning, effort, budgetTokens } = settings;
  if (reasoning === 'default' && effort === 'default' && budgetTokens === null) return undefined;
  return create(ReasoningSchema, {
    enabled: reasoning === 'default' ? undefined : reasoning === 'on',
    effort: EFFORTS[effort],
    budgetTokens: budgetTokens ?? undefined,
  });
}

function toTool(tool: OfferedTool): Tool {
  return create(ToolSchema, { name: tool.function, description: tool.description, parametersJsonSchema: tool.schema });
}

function toConstraint(settings: Settings, hasTools: boolean): GenerateRequest['constraint'] {
  // The contract takes either tools or a constraint.
  if (hasTools || settings.output === 'text') return { case: undefined };
  if (settings.output === 'json') return { case: 'jsonObject', value: create(JsonObjectSchema) };
  return { case: 'jsonSchema', value: settings.schema };
}
