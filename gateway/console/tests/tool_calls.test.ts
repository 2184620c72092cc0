import { create } from '@bufbuild/protobuf';
import { expect, it } from 'vitest';
import { Approval, ToolSchema } from '#gen/mlxmesh/tool/v1/tool_pb.ts';
import { runCalls, type CallableTools } from '#lib/chat/tool_calls.ts';
import type { Decision } from '#lib/chat/tools.svelte.ts';
import { DEFAULT_SETTINGS, type Answer, type Call, type CallState } from '#lib/chat/types.ts';

function call(over: Partial<Call> = {}): Call {
  return { id: 'c1', name: 'files__read', arguments: '{"path":"a"}', state: 'waiting', result: '', isError: false, durationMs: 0, ...over };
}

class Scripted implements CallableTools {
  asked = 0;
  called: string[] = [];

  constructor(
    private readonly decision: Decision,
    private readonly approval = Approval.ASK,
    private readonly error?: Error,
  ) {}

  find(name: string) {
    return name === 'files__read' ? create(ToolSchema, { function: name, approval: this.approval }) : undefined;
  }

  ask() {
    this.asked += 1;
    return Promise.resolve(this.decision);
  }

  call(name: string, args: string) {
    this.called.push(`${name} ${args}`);
    if (this.error) return Promise.reject(this.error);
    return Promise.resolve({ text: 'content', isError: false, durationMs: 5 });
  }
}

async function run(tools: Scripted, calls: Call[], over = {}) {
  const answer = { calls, requestId: 'r' } as Answer;
  const settings = { ...structuredClone(DEFAULT_SETTINGS), tools: ['files__read'], ...over };
  const saved: CallState[] = [];
  const save = () => {
    saved.push(...calls.map((one) => one.state));
    return Promise.resolve();
  };
  const goesOn = await runCalls({ answer, settings, tools, save, signal: new AbortController().signal });
  return { goesOn, settings, saved };
}

it('calls what the user allowed once, and asks again for the next call', async () => {
  const tools = new Scripted('once');
  const calls = [call(), call({ id: 'c2' })];
  const { goesOn, saved } = await run(tools, calls);
  expect(goesOn).toBe(true);
  expect(tools.asked).toBe(2);
  expect(calls).toMatchObject([{ state: 'done', result: 'content' }, { state: 'done' }]);
  expect(saved).toContain('asking');
});

it('asks no more for what is always allowed in this conversation', async () => {
  const tools = new Scripted('always');
  const { settings } = await run(tools, [call(), call({ id: 'c2' })]);
  expect(tools.asked).toBe(1);
  expect(settings.always).toEqual(['files__read']);
});

it('tells the model what was denied, and calls nothing', async () => {
  const tools = new Scripted('deny');
  const one = call();
  expect((await run(tools, [one])).goesOn).toBe(true);
  expect(tools.called).toEqual([]);
  expect(one).toMatchObject({ state: 'denied', isError: true, result: 'The user denied this call.' });
});

it('asks nothing for tools that need no approval, and denies those that are never allowed', async () => {
  const free = new Scripted('deny', Approval.ALWAYS);
  await run(free, [call()]);
  expect([free.asked, free.called.length]).toEqual([0, 1]);
  const never = new Scripted('once', Approval.NEVER);
  await run(never, [call()]);
  expect([never.asked, never.called.length]).toEqual([0, 0]);
});

it.each([
  ['a tool that was not chosen', call({ name: 'other__tool' }), 'There is no tool other__tool.'],
  ['arguments that are no object', call({ arguments: '[1' }), 'The arguments are not a JSON object.'],
])('calls nothing for %s', async (_, one, result) => {
  const tools = new Scripted('once');
  await run(tools, [one]);
  expect(tools.called).toEqual([]);
  expect(one).toMatchObject({ state: 'failed', result, isError: true });
});

it('asks again for a call that ran when the page was left, even if it is always allowed', async () => {
  const tools = new Scripted('deny');
  await run(tools, [call({ state: 'running' })], { always: ['files__read'] });
  expect([tools.asked, tools.called.length]).toEqual([1, 0]);
});

it('does not run ended calls again', async () => {
  const tools = new Scripted('once');
  await run(tools, [call({ state: 'done', result: 'before' })]);
  expect(tools.called).toEqual([]);
});

it('gives the model the reason of a failure', async () => {
  const one = call();
  await run(new Scripted('once', Approval.ASK, new Error('the server is away')), [one]);
  expect(one).toMatchObject({ state: 'failed', isError: true });
  expect(one.result).toContain('the server is away');
});
