import { create } from '@bufbuild/protobuf';
import { expect, it } from 'vitest';
import { ToolSchema } from '#gen/mlxmesh/tool/v1/tool_pb.ts';
import { Tools } from '#lib/chat/tools.svelte.ts';
import type { Call } from '#lib/chat/types.ts';

const tool = create(ToolSchema, { function: 'files__read' });
const call = { id: 'the same', name: 'files__read' } as Call;

it('asks one question after another, also about calls with one id', async () => {
  const tools = new Tools();
  const { signal } = new AbortController();
  const answers = [tools.ask(call, tool, signal), tools.ask({ ...call, arguments: '{}' }, tool, signal)];
  expect(tools.questions).toHaveLength(2);
  tools.questions[0]?.decide('once');
  expect(tools.questions.map((one) => one.call.arguments)).toEqual(['{}']);
  tools.questions[0]?.decide('deny');
  expect(tools.questions).toEqual([]);
  expect(await Promise.all(answers)).toEqual(['once', 'deny']);
});

it('denies what was stopped', async () => {
  const tools = new Tools();
  const abort = new AbortController();
  const answer = tools.ask(call, tool, abort.signal);
  abort.abort();
  expect(await answer).toBe('deny');
  expect(tools.questions).toEqual([]);
});
