import { describe, expect, it } from 'vitest';
import { toRequest } from '#lib/chat/request.ts';
import { mismatch, schemaProblem } from '#lib/chat/schema.ts';
import { areLegal, problemOf, SAMPLING, seedProblem } from '#lib/chat/numbers.ts';
import { toMarkdownFile } from '#lib/chat/export.ts';
import { DEFAULT_SETTINGS, type Answer, type Message } from '#lib/chat/types.ts';

const answer = { model: 'pocket', requestId: 'r', conversation: 'c' } as Answer;
const settings = () => structuredClone(DEFAULT_SETTINGS);
const user: Message = { role: 'user', id: 'u', conversation: 'c', parent: null, lane: 0, createdMs: 0, text: 'hello' };

describe('a request', () => {
  it('leaves to the model what is not set', () => {
    const request = toRequest(answer, [user], settings(), []);
    expect(request.sampling?.temperature).toBeUndefined();
    expect(request.reasoning).toBeUndefined();
    expect(request.constraint.case).toBeUndefined();
    expect(request).toMatchObject({ model: 'pocket', requestId: 'r', sessionId: 'c' });
  });

  it('has the settings of the conversation', () => {
    const over = { system: 'be brief', temperature: 0.5, seed: '18446744073709551615', reasoning: 'off' as const, output: 'schema' as const, schema: '{}' };
    const request = toRequest(answer, [user], { ...settings(), ...over }, []);
    expect(request.sampling).toMatchObject({ temperature: 0.5, seed: 18446744073709551615n });
    expect(request.reasoning?.enabled).toBe(false);
    expect(request.constraint).toEqual({ case: 'jsonSchema', value: '{}' });
    expect(request.input.value).toMatchObject({ messages: [{ content: 'be brief' }, { content: 'hello' }] });
  });

  it('sends calls with their results, and a legal object for what is none', () => {
    const called = { ...answer, role: 'assistant', text: '', calls: [{ id: 'c1', name: 'a__b', arguments: 'not json', result: 'r', state: 'done' }] } as unknown as Message;
    const request = toRequest(answer, [user, called], settings(), [{ function: 'a__b', description: '', schema: '{}' }]);
    expect(request.input.value).toMatchObject({ messages: [{}, { toolCalls: [{ id: 'c1', arguments: '{}' }] }, { toolCallId: 'c1', toolName: 'a__b', content: 'r' }] });
    expect(request.tools).toHaveLength(1);
  });

  it('has no constraint beside tools, which the contract forbids', () => {
    const request = toRequest(answer, [user], { ...settings(), output: 'json' }, [{ function: 'a', description: '', schema: '{}' }]);
    expect(request.constraint.case).toBeUndefined();
  });
});

describe('a schema', () => {
  it.each(['{"type":"object"}', '{"anyOf":[{"type":"string"},{"enum":[1]}]}', '{"properties":{"a":true}}'])('%s is legal', (text) => {
    expect(schemaProblem(text)).toBe('');
  });

  it.each([
    ['', 'Enter a JSON Schema.'],
    ['[]', 'the schema must be an object.'],
    ['true', 'The schema must be an object.'],
    ['{"type":"text"}', 'there is no type "text"'],
    ['{"properties":{"a":{"type":"strnig"}}}', '/properties/a: there is no type "strnig"'],
    ['{"properties":[]}', '/properties must be an object.'],
    ['{"required":"a"}', 'required must be a list of names'],
    ['{"anyOf":{}}', '/anyOf must be a list.'],
    ['{"enum":[]}', 'enum must be a list of values'],
  ])('%s is not', (text, problem) => {
    expect(schemaProblem(text)).toContain(problem);
  });

  it('says where JSON ends', () => {
    expect(schemaProblem('{"type":')).toMatch(/^Not JSON:/);
  });

  it('tells whether an answer satisfies it', async () => {
    const schema = '{"type":"object","properties":{"age":{"type":"integer"}},"required":["age"]}';
    expect(await mismatch(schema, '{"age":3}')).toBe('');
    expect(await mismatch(schema, '{"age":"3"}')).toContain('age');
    expect(await mismatch(schema, '{"age":')).toBe('The answer is not complete JSON.');
  });
});

describe('numbers', () => {
  const temperature = SAMPLING[0]!;

  it.each([
    [null, ''],
    [0, ''],
    [10, ''],
    [10.1, 'From 0 to 10.'],
    [-0.1, 'From 0 to 10.'],
    [NaN, 'Not a number.'],
  ])('%s', (value, problem) => {
    expect(problemOf(temperature, value)).toBe(problem);
  });

  it.each(['', '0', '18446744073709551615'])('seed %j is legal', (seed) => expect(seedProblem(seed)).toBe(''));
  it.each(['-1', '1.5', '18446744073709551616', 'x'])('seed %j is not', (seed) => expect(seedProblem(seed)).not.toBe(''));

  it('decides whether the settings can be sent', () => {
    expect(areLegal(settings(), 'no schema')).toBe(true);
    expect(areLegal({ ...settings(), topK: 1.5 }, '')).toBe(false);
    expect(areLegal({ ...settings(), output: 'schema' }, 'bad')).toBe(false);
  });
});

it('exports what an answer contains within a fence that it cannot end', () => {
  const called = { role: 'assistant', version: 'pocket@1', text: 'x', calls: [{ name: 't', arguments: '```', result: '````' }] } as unknown as Message;
  const text = toMarkdownFile('T', [user, called]);
  expect(text).toContain('## You\n\nhello');
  expect(text).toContain('\n`````\n````\n`````');
});
