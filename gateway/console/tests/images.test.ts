import 'fake-indexeddb/auto';
import { create } from '@bufbuild/protobuf';
import { describe, expect, it } from 'vitest';
import { ModelKind, ModelSchema } from '#gen/mlxmesh/model/v1/model_pb.ts';
import type { AnswerWork, Answerers } from '#lib/chat/answerers.ts';
import { Conversations } from '#lib/chat/conversations.svelte.ts';
import { OpenConversation } from '#lib/chat/conversation.svelte.ts';
import { ChatDatabase } from '#lib/chat/database.ts';
import { toJsonFile, toMarkdownFile } from '#lib/chat/export.ts';
import { imagesOf, imagesProblem, MAX_IMAGE_BYTES, MAX_IMAGES_BYTES, MAX_KEPT_BYTES, readFiles, typeOf, type Sending } from '#lib/chat/images.ts';
import { visionOf } from '#lib/chat/models.svelte.ts';
import { toRequest } from '#lib/chat/request.ts';
import { DEFAULT_SETTINGS, type Answer, type ChatImage, type Conversation, type Message, type UserMessage } from '#lib/chat/types.ts';

const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const ascii = (text: string) => Array.from(text, (one) => one.charCodeAt(0));
const image = (length = PNG.length, name = 'a.png'): ChatImage => ({ name, type: 'image/png', bytes: new Uint8Array(length) });
const file = (bytes: number[] | Uint8Array<ArrayBuffer>, name: string) => new File([Uint8Array.from(bytes)], name);
const asked = (images?: ChatImage[], text = 'what?'): UserMessage => ({ role: 'user', id: 'u', conversation: 'c', parent: null, lane: 0, createdMs: 0, text, images });

describe('the format of a file', () => {
  it.each([
    [PNG, 'image/png'],
    [[0xff, 0xd8, 0xff, 0xe0], 'image/jpeg'],
    [ascii('RIFF\0\n\r\xffWEBPVP8 '), 'image/webp'],
    [ascii('GIF89a'), 'image/gif'],
    [ascii('GIF87a'), 'image/gif'],
    [ascii('<svg xmlns="http://www.w3.org/2000/svg">'), ''],
    [ascii('RIFF\0\0\0\0WAVE'), ''],
    [PNG.slice(0, 7), ''],
    [[], ''],
  ])('is told by its first bytes %#', (bytes, type) => expect(typeOf(Uint8Array.from(bytes))).toBe(type));
});

describe('files', () => {
  it('become images, and say by name why they do not', async () => {
    const found = await readFiles([file(PNG, 'cat.png'), file(ascii('hello'), 'cat.jpg'), file([], 'none.gif')], []);
    expect(found.images.map(({ name, type, bytes }) => [name, type, [...bytes]])).toEqual([['cat.png', 'image/png', PNG]]);
    expect(found.problems).toEqual(['cat.jpg: it is no PNG, JPEG, WebP or GIF image.', 'none.gif: the file is empty.']);
  });

  it('are not read where they are too large', async () => {
    const large = { name: 'large.png', size: MAX_IMAGE_BYTES + 1, arrayBuffer: () => Promise.reject(new Error('it was read')) } as File;
    expect(await readFiles([large], [])).toEqual({ images: [], problems: ['large.png: it has 20.0 MB, and an image may have 20.0 MB.'] });
  });

  it('are sixteen at most', async () => {
    const found = await readFiles([file(PNG, 'last.png'), file(PNG, 'more.png')], Array.from({ length: 15 }, () => image()));
    expect(found.images.map(({ name }) => name)).toEqual(['last.png']);
    expect(found.problems).toEqual(['more.png: a conversation may have 16 images.']);
  });

  it('have 32 MiB together at most', async () => {
    const found = await readFiles([file(PNG, 'a.png')], [image(MAX_IMAGES_BYTES - PNG.length + 1)]);
    expect(found.problems).toEqual(['a.png: the images of a conversation may have 32.0 MB together.']);
    expect((await readFiles([file(PNG, 'a.png')], [image(MAX_IMAGES_BYTES - PNG.length)])).problems).toEqual([]);
  });
});

describe('a message with images', () => {
  const sending = (over: Partial<Sending>): Sending => ({ models: ['eyes'], vision: new Set(['eyes']), images: [], paths: [[]], messages: [], ...over });

  it.each<[string, Partial<Sending>, string]>([
    ['goes to a model that sees', { images: [image()] }, ''],
    ['does not go to one that does not', { models: ['blind'], images: [image()] }, 'blind reads no images: remove them'],
    ['does not go to two of which one does not', { models: ['eyes', 'blind'], images: [image()] }, 'blind reads no images: remove them'],
    ['does not stay behind silently', { models: ['blind'], paths: [[asked([image()])]] }, 'blind reads no images, and this conversation has some'],
    ['is not needed', { models: ['blind'], paths: [[asked()]] }, ''],
    ['has room for sixteen', { images: [image()], paths: [[], [asked(Array.from({ length: 15 }, () => image()))]] }, ''],
    ['has no room for more', { images: [image()], paths: [[], [asked(Array.from({ length: 16 }, () => image()))]] }, 'Remove images: a conversation may have 16 images.'],
    ['is not kept without end', { images: [image()], messages: [asked([image(MAX_KEPT_BYTES)])] }, 'This browser keeps 128 MB of images'],
  ])('%s', (_, over, problem) => {
    const found = imagesProblem(sending(over));
    if (problem) expect(found).toContain(problem);
    else expect(found).toBe('');
  });

  it('is sent as bytes before its text', () => {
    const answer = { model: 'eyes' } as Answer;
    const { value } = toRequest(answer, [asked([image()]), asked([image()], ''), asked()], structuredClone(DEFAULT_SETTINGS), []).input;
    const part = { part: { case: 'image', value: { source: { case: 'data', value: image().bytes } } } };
    expect(value).toMatchObject({ messages: [{ content: '', parts: [part, { part: { case: 'text', value: 'what?' } }] }, { parts: [part] }, { content: 'what?', parts: [] }] });
  });

  it('is exported with its images', () => {
    const message = asked([{ ...image(), bytes: Uint8Array.from(PNG) }]);
    const { messages } = JSON.parse(toJsonFile({} as Conversation, [message])) as { messages: object[] };
    expect(messages).toMatchObject([{ text: 'what?', images: [{ name: 'a.png', type: 'image/png', data: 'iVBORw0KGgo=' }] }]);
    expect(toMarkdownFile('T', [message])).toBe('# T\n\n## You\n\n(Image: a.png)\n\nwhat?\n');
  });
});

describe('a conversation with images', () => {
  const seen: string[][] = [];
  const answerers = {
    async run({ answer, before, save }: AnswerWork) {
      seen.push(imagesOf(before).map(({ name }) => name));
      answer.state = 'done';
      await save();
      return false;
    },
  } as unknown as Answerers;
  const settled = () => new Promise((resolve) => setTimeout(resolve, 20));

  it('keeps them in the database, on edits and on another answer', async () => {
    const store = new ChatDatabase('images');
    const list = new Conversations(store);
    const conversation = new OpenConversation(list.begin(), [], { store, list, answerers });
    conversation.settings.models = ['eyes', 'eyes@2'];
    conversation.settings.compare = true;
    await conversation.send('', [image()]);
    await settled();
    expect(conversation.meta.title).toBe('a.png');
    await conversation.edit(conversation.path(0)[0]!.message as UserMessage, 'look');
    await settled();
    conversation.regenerate(conversation.path(1)[1]!.message as Answer);
    await settled();
    expect(seen).toEqual(Array.from({ length: 5 }, () => ['a.png']));
    const stored: Message[] = await store.messagesOf(conversation.meta.id);
    expect(imagesOf(stored).map(({ name, bytes }) => [name, ...bytes])).toEqual(Array.from({ length: 2 }, () => ['a.png', ...image().bytes]));
  });
});

describe('models that read images', () => {
  const versions = [
    { version: 1, kind: ModelKind.GENERATION },
    { version: 2, kind: ModelKind.VISION },
    { version: 3, kind: ModelKind.VISION, upstream: {} },
  ];

  it('are told by the kind of the version that a name means', () => {
    const model = (defaultVersion: number) => create(ModelSchema, { name: 'm', versions, defaultVersion, aliases: { stable: 1, next: 2 }, adapters: [{ name: 'french' }] });
    expect(visionOf(model(2))).toEqual(['m', 'm:next', 'm@2']);
    expect(visionOf(model(1))).toEqual(['m:next', 'm@2']);
  });

  it('are no ensembles', () => expect(visionOf(create(ModelSchema, { name: 'm', versions, defaultVersion: 2, ensemble: {} }))).toEqual([]));
});
