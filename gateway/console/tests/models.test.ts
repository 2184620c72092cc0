import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { describe, expect, it } from 'vitest';
import { HistoryPeriodSchema } from '#gen/mlxmesh/model/v1/history_pb.ts';
import { DownloadSchema, DownloadState, WatchDownloadsResponseSchema } from '#gen/mlxmesh/model/v1/hub_pb.ts';
import { ModelKind, ModelSchema, ModelVersionSchema, SyncedSchema, WatchModelsResponseSchema } from '#gen/mlxmesh/model/v1/model_pb.ts';
import { adaptersOf, answers, optionsOf, splitAdapter } from '#lib/chat/models.svelte.ts';
import { downloads } from '#lib/hub/downloads.svelte.ts';
import { catalogue } from '#lib/models/catalogue.svelte.ts';
import { seriesOf } from '#lib/models/history.ts';
import { defaultVersion, formatParameters, formatSetting, kindOf, loadedBytes } from '#lib/models/states.ts';

describe('states of models', () => {
  const model = create(ModelSchema, {
    name: 'pocket',
    defaultVersion: 1,
    versions: [
      { version: 1, readyReplicas: 2, weightsBytes: 10n },
      { version: 2, readyReplicas: 1, weightsBytes: 5n },
    ],
  });

  it('knows what the bare name means', () => {
    expect(defaultVersion(model)?.version).toBe(1);
    expect(defaultVersion(create(ModelSchema, { name: 'empty' }))).toBeUndefined();
  });

  it.each([
    ['', ''],
    [' auto ', ''],
    ['none', 'none'],
    [' hermes', 'hermes'],
  ])('sets the format %j as %j', (given, setting) => expect(formatSetting(given)).toBe(setting));

  it('adds the weights of all replicas', () => expect(loadedBytes(model)).toBe(25));

  it.each([
    [0n, ''],
    [950n, '950'],
    [1_400_000n, '1.4M'],
    [600_000_000n, '600M'],
    [1_720_000_000n, '1.7B'],
    [480_000_000_000n, '480B'],
  ])('writes %d parameters as %s', (count, text) => expect(formatParameters(count)).toBe(text));
});

describe('kinds of models', () => {
  it.each([
    [ModelKind.UNSPECIFIED, 0, ''],
    [ModelKind.GENERATION, 0, 'generation'],
    [ModelKind.EMBEDDING, 1024, 'embedding, 1,024 dimensions'],
    [ModelKind.RERANK, 0, 'rerank'],
  ])('are written in words', (kind, dimensions, text) => {
    expect(kindOf(create(ModelVersionSchema, { kind, dimensions }))).toBe(text);
  });

  it.each([
    [ModelKind.UNSPECIFIED, true],
    [ModelKind.GENERATION, true],
    [ModelKind.VISION, true],
    [ModelKind.EMBEDDING, false],
    [ModelKind.RERANK, false],
  ])('decide who answers in a conversation', (kind, expected) => {
    expect(answers(create(ModelSchema, { name: 'one', versions: [{ version: 1, kind }] }))).toBe(expected);
  });
});

describe('adapters in a conversation', () => {
  const model = create(ModelSchema, { name: 'pocket', versions: [{ version: 1 }], aliases: { stable: 1 }, adapters: [{ name: 'french' }, { name: 'german' }] });
  const known = adaptersOf([model, create(ModelSchema, { name: 'other' })]);

  it('are offered after the aliases', () => {
    expect(optionsOf(model).map(({ value }) => value)).toEqual(['pocket', 'pocket:stable', 'pocket:french', 'pocket:german']);
  });

  it('are listed by model', () => expect(known).toEqual({ pocket: ['french', 'german'] }));

  it.each([
    ['pocket:french', 'pocket', 'french'],
    ['pocket', 'pocket', ''],
    ['pocket:stable', 'pocket:stable', ''],
    ['pocket@1', 'pocket@1', ''],
    ['other:french', 'other:french', ''],
    ['', '', ''],
  ])('%s is the model %s with the adapter %s', (reference, model, adapter) => {
    expect(splitAdapter(reference, known)).toEqual({ model, adapter });
  });
});

describe('the history by version', () => {
  it('has one row a version, with gaps where it did nothing', () => {
    const period = (version: number, second: number, requests: number) =>
      create(HistoryPeriodSchema, { version, startTime: timestampFromMs(second * 1000), requests: BigInt(requests) });
    const found = seriesOf([period(2, 7200, 3), period(1, 3600, 1), period(1, 7200, 2)], (one) => Number(one.requests));
    expect(found).toEqual({ versions: [1, 2], data: [[3600, 7200], [1, 2], [null, 3]] });
  });
});

describe('the live catalogue', () => {
  const put = (name: string) => catalogue.onNews({ case: 'model', value: create(WatchModelsResponseSchema, { event: { case: 'model', value: create(ModelSchema, { name }) } }) });
  const synced = () => catalogue.onNews({ case: 'model', value: create(WatchModelsResponseSchema, { event: { case: 'synced', value: create(SyncedSchema) } }) });

  it('forgets what is not there any more after a loss of the stream', () => {
    catalogue.onStart();
    put('b');
    put('a');
    synced();
    expect(catalogue.list.map((one) => one.name)).toEqual(['a', 'b']);
    catalogue.onStart();
    put('b');
    expect(catalogue.list.length).toBe(2);
    synced();
    expect(catalogue.list.map((one) => one.name)).toEqual(['b']);
  });
});

describe('the live downloads', () => {
  const news = (ids: string[], removedIds: string[] = []) =>
    downloads.onNews({
      case: 'downloads',
      value: create(WatchDownloadsResponseSchema, {
        downloads: ids.map((downloadId, at) => create(DownloadSchema, { downloadId, state: DownloadState.RUNNING, createTime: timestampFromMs(at * 1000) })),
        removedIds,
      }),
    });

  it('lists the newest first, and drops what was removed', () => {
    downloads.onStart();
    news(['old', 'new']);
    expect(downloads.list.map((one) => one.downloadId)).toEqual(['new', 'old']);
    expect(downloads.active).toBe(2);
    news([], ['old']);
    expect(downloads.list.map((one) => one.downloadId)).toEqual(['new']);
  });
});
