import { Code, ConnectError } from '@connectrpc/connect';
import { create } from '@bufbuild/protobuf';
import { expect, it } from 'vitest';
import { ErrorInfoSchema } from '#gen/google/rpc/error_details_pb.ts';
import {
  DeltaSchema,
  FinishedSchema,
  FinishReason,
  GenerateRequestSchema,
  GenerateResponseSchema,
  StartedSchema,
  type GenerateResponse,
} from '#gen/mlxmesh/generation/v1/generation_pb.ts';
import { follow, type Generations } from '#lib/chat/follow.ts';
import type { Answer } from '#lib/chat/types.ts';

function blank(): Answer {
  return { state: 'running', sequence: 0, text: '', reasoning: '', calls: [], tokens: 0, requestId: 'r', firstMs: 0, sentMs: 0, error: null } as unknown as Answer;
}

const started = (sequence: number) =>
  create(GenerateResponseSchema, { sequence: BigInt(sequence), event: { case: 'started', value: create(StartedSchema, { model: 'pocket', modelVersion: 1 }) } });
const delta = (sequence: number, text: string) =>
  create(GenerateResponseSchema, { sequence: BigInt(sequence), event: { case: 'delta', value: create(DeltaSchema, { text, tokenIds: [1] }) } });
const finished = (sequence: number) =>
  create(GenerateResponseSchema, { sequence: BigInt(sequence), event: { case: 'finished', value: create(FinishedSchema, { finishReason: FinishReason.STOP }) } });

function refused(code: Code, reason: string): ConnectError {
  return new ConnectError('no', code, undefined, [{ desc: ErrorInfoSchema, value: { reason } }]);
}

const LOST = ConnectError.from(new TypeError('network error'));

/** Streams that send some messages and then end by an error, one for each call. */
class Scripted implements Generations {
  readonly calls: string[] = [];
  renewals = 0;

  constructor(private readonly streams: { messages?: GenerateResponse[]; error?: unknown }[]) {}

  generate(): AsyncIterable<GenerateResponse> {
    this.calls.push('generate');
    return this.#next();
  }

  attach(_id: string, after: number, numbering: number): AsyncIterable<GenerateResponse> {
    this.calls.push(numbering ? `attach ${after} of ${numbering}` : `attach ${after}`);
    return this.#next();
  }

  renew(): Promise<boolean> {
    this.renewals += 1;
    return Promise.resolve(true);
  }

  async *#next(): AsyncIterable<GenerateResponse> {
    const stream = this.streams.shift() ?? { error: LOST };
    yield* stream.messages ?? [];
    if (stream.error) throw stream.error;
  }
}

async function run(script: ConstructorParameters<typeof Scripted>[0], { reattach = false, answer = blank() } = {}) {
  const calls = new Scripted(script);
  let clock = 0;
  const followed = {
    onChange: () => {},
    signal: new AbortController().signal,
    now: () => clock,
    pause: (ms: number) => {
      clock += ms;
      return Promise.resolve();
    },
  };
  await follow(answer, reattach ? undefined : create(GenerateRequestSchema), calls, followed);
  return { answer, calls };
}

it('reads an answer to its end', async () => {
  const { answer, calls } = await run([{ messages: [started(1), delta(2, 'a'), delta(3, 'b'), finished(4)] }]);
  expect(answer).toMatchObject({ state: 'done', text: 'ab', version: 'pocket@1', finishReason: 'stop', tokens: 2 });
  expect(calls.calls).toEqual(['generate']);
});

it('attaches after the last message when the connection is lost, and repeats nothing', async () => {
  const { answer, calls } = await run([
    { messages: [started(1), delta(2, 'a')], error: LOST },
    { error: refused(Code.Unavailable, 'DRAINING') },
    { messages: [delta(2, 'a'), delta(3, 'b'), finished(4)] },
  ]);
  expect(answer).toMatchObject({ state: 'done', text: 'ab' });
  expect(calls.calls).toEqual(['generate', 'attach 2', 'attach 2']);
});

it('sends the request again while nothing has come, since its id makes that safe', async () => {
  const { answer, calls } = await run([{ error: LOST }, { messages: [started(1), finished(2)] }]);
  expect(answer.state).toBe('done');
  expect(calls.calls).toEqual(['generate', 'generate']);
});

it('attaches a stream that ended without its end', async () => {
  const { answer, calls } = await run([{ messages: [started(1)] }, { messages: [finished(2)] }]);
  expect(answer.state).toBe('done');
  expect(calls.calls).toEqual(['generate', 'attach 1']);
});

it('goes on after a reload where the stored answer ends', async () => {
  const answer = { ...blank(), sequence: 7, text: 'so far' };
  const { calls } = await run([{ messages: [delta(8, ' and on'), finished(9)] }], { reattach: true, answer });
  expect(answer.text).toBe('so far and on');
  expect(calls.calls).toEqual(['attach 7']);
});

it('fails at once where asking again cannot help', async () => {
  const { answer, calls } = await run([{ error: refused(Code.NotFound, 'MODEL_NOT_FOUND') }]);
  expect(answer).toMatchObject({ state: 'failed', error: { code: 'NOT_FOUND', reason: 'MODEL_NOT_FOUND', message: 'no' } });
  expect(calls.calls).toEqual(['generate']);
});

it('gives up once nothing can be left of the generation', async () => {
  const { answer, calls } = await run([{ messages: [started(1)], error: LOST }]);
  expect(answer).toMatchObject({ state: 'failed', error: { message: 'The gateway cannot be reached.' } });
  expect(calls.calls.length).toBeGreaterThan(10);
});

it('leaves an answer to the window that reads it now', async () => {
  const { answer } = await run([{ messages: [started(1)], error: refused(Code.Aborted, 'READER_REPLACED') }]);
  expect(answer.state).toBe('elsewhere');
});

it('renews a session that has expired', async () => {
  const { answer, calls } = await run([{ error: refused(Code.Unauthenticated, 'UNAUTHENTICATED') }, { messages: [started(1), finished(2)] }]);
  expect(answer.state).toBe('done');
  expect(calls.renewals).toBe(1);
});

it('does not renew for ever', async () => {
  const error = refused(Code.Unauthenticated, 'UNAUTHENTICATED');
  const { answer, calls } = await run([{ error }, { error }]);
  expect(answer.state).toBe('failed');
  expect(calls.renewals).toBe(1);
});

it('says who numbered the last message when it attaches', async () => {
  const by = (numbering: number, message: GenerateResponse) => ({ ...message, numbering });
  const { answer, calls } = await run([
    { messages: [by(7, started(1)), by(7, delta(2, 'a')), by(9, delta(3, 'b'))], error: LOST },
    { messages: [by(9, finished(4))] },
  ]);
  expect(answer).toMatchObject({ state: 'done', text: 'ab', numbering: 9 });
  expect(calls.calls).toEqual(['generate', 'attach 3 of 9']);
});
