import { Approval, type Tool } from '#gen/mlxmesh/tool/v1/tool_pb.ts';
import { toApiError } from '#lib/api/errors.ts';
import { parseObject } from './request.ts';
import type { Decision, ToolResult } from './tools.svelte.ts';
import type { Answer, Call, Settings } from './types.ts';

/** What running calls needs of the mesh's tools. */
export interface CallableTools {
  find(name: string): Tool | undefined;
  ask(call: Call, tool: Tool, signal: AbortSignal): Promise<Decision>;
  call(name: string, argumentsJson: string, requestId: string, approved: boolean, signal: AbortSignal): Promise<ToolResult>;
}

export interface CallWork {
  answer: Answer;
  settings: Settings;
  tools: CallableTools;
  save(): Promise<void>;
  signal: AbortSignal;
}

/** Runs the calls of an answer one after another. Returns whether all have a result for the model. */
export async function runCalls(work: CallWork): Promise<boolean> {
  for (const call of work.answer.calls) {
    if (ENDED.has(call.state)) continue;
    await runCall(call, work);
    await work.save();
    if (work.signal.aborted) return false;
  }
  return true;
}

const ENDED = new Set<Call['state']>(['done', 'denied', 'failed']);

async function runCall(call: Call, { answer, settings, tools, save, signal }: CallWork): Promise<void> {
  const tool = settings.tools.includes(call.name) ? tools.find(call.name) : undefined;
  if (!tool) return fail(call, `There is no tool ${call.name}.`);
  if (!parseObject(call.arguments)) return fail(call, 'The arguments are not a JSON object.');
  // What ran when the page was left may have had an effect: ask before it runs again.
  const again = call.state === 'running';
  const decision = again ? undefined : decided(tool, settings);
  if (decision === undefined) {
    call.state = 'asking';
    await save();
  }
  const final = decision ?? (await tools.ask(call, tool, signal));
  if (final === 'deny') return deny(call);
  if (final === 'always' && !settings.always.includes(call.name)) settings.always.push(call.name);
  call.state = 'running';
  await save();
  try {
    const result = await tools.call(call.name, call.arguments || '{}', answer.requestId, true, signal);
    Object.assign(call, { state: 'done', result: result.text, isError: result.isError, durationMs: result.durationMs });
  } catch (thrown) {
    if (signal.aborted) fail(call, 'The call was stopped.');
    else fail(call, toApiError(thrown).message);
  }
}

/** What needs no question; undefined for a call that the user decides. */
function decided(tool: Tool, settings: Settings): Decision | undefined {
  if (tool.approval === Approval.NEVER) return 'deny';
  if (tool.approval === Approval.ALWAYS || settings.always.includes(tool.function)) return 'once';
  return undefined;
}

function deny(call: Call): void {
  Object.assign(call, { state: 'denied', result: 'The user denied this call.', isError: true });
}

function fail(call: Call, why: string): void {
  Object.assign(call, { state: 'failed', result: why, isError: true });
}
