import { formatBytes } from '#lib/format.ts';
import type { ChatImage, Message } from './types.ts';

/** The limits of the contract, see ContentPart.image. */
export const MAX_IMAGES = 16;
export const MAX_IMAGE_BYTES = 20 * 2 ** 20;
export const MAX_IMAGES_BYTES = 32 * 2 ** 20;
/** What one conversation keeps in the browser, with all its branches. */
export const MAX_KEPT_BYTES = 128 * 2 ** 20;

/** What a dialog of files offers. */
export const ACCEPTED = 'image/png,image/jpeg,image/webp,image/gif';

/** How the files of each format begin. */
const SIGNATURES: [type: string, begins: RegExp][] = [
  ['image/png', /^\x89PNG\r\n\x1a\n/],
  ['image/jpeg', /^\xff\xd8\xff/],
  ['image/webp', /^RIFF[^]{4}WEBP/],
  ['image/gif', /^GIF8[79]a/],
];

/** The format of a file by its first bytes, whatever its name says; '' for one that models do not read. */
export function typeOf(bytes: Uint8Array): string {
  const head = String.fromCharCode(...bytes.subarray(0, 12));
  return SIGNATURES.find(([, begins]) => begins.test(head))?.[0] ?? '';
}

/** Reads files that join the images that are there. What does not fit is left out, and `problems` say why. */
export async function readFiles(files: readonly File[], present: readonly ChatImage[]): Promise<{ images: ChatImage[]; problems: string[] }> {
  const images: ChatImage[] = [];
  const problems: string[] = [];
  for (const file of files) {
    const problem = sizeProblem(file) || togetherProblem([...present, ...images].map((one) => one.bytes.length).concat(file.size));
    const image = problem ? undefined : await readFile(file);
    if (image) images.push(image);
    else problems.push(`${file.name}: ${problem || 'it is no PNG, JPEG, WebP or GIF image.'}`);
  }
  return { images, problems };
}

async function readFile(file: File): Promise<ChatImage | undefined> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const type = typeOf(bytes);
  return type ? { name: file.name, type, bytes } : undefined;
}

function sizeProblem({ size }: File): string {
  if (size === 0) return 'the file is empty.';
  return size > MAX_IMAGE_BYTES ? `it has ${formatBytes(size)}, and an image may have ${formatBytes(MAX_IMAGE_BYTES)}.` : '';
}

function togetherProblem(sizes: readonly number[]): string {
  if (sizes.length > MAX_IMAGES) return `a conversation may have ${MAX_IMAGES} images.`;
  return sum(sizes) > MAX_IMAGES_BYTES ? `the images of a conversation may have ${formatBytes(MAX_IMAGES_BYTES)} together.` : '';
}

/** What decides whether images can be sent. */
export interface Sending {
  /** The models that are asked. */
  models: readonly string[];
  /** Those that read images. */
  vision: ReadonlySet<string>;
  /** The images to send. */
  images: readonly ChatImage[];
  /** The messages before, of each lane. */
  paths: readonly (readonly Message[])[];
  /** All messages of the conversation. */
  messages: readonly Message[];
}

/** Why a message cannot be sent, as far as images go; empty if it can. Nothing is left out without a word. */
export function imagesProblem({ models, vision, images, paths, messages }: Sending): string {
  const before = paths.map(imagesOf);
  const blind = models.find((model) => !vision.has(model));
  if (blind && images.length > 0) return `${blind} reads no images: remove them, or choose a model of the kind vision.`;
  if (blind && before.some((found) => found.length > 0)) {
    return `${blind} reads no images, and this conversation has some: choose a model of the kind vision, or begin a new conversation.`;
  }
  if (images.length === 0) return '';
  const together = before.map((found) => togetherProblem([...found, ...images].map((one) => one.bytes.length))).find(Boolean);
  if (together) return `Remove images: ${together}`;
  return keepProblem(messages, images);
}

/** Why a conversation cannot keep more images; empty if it can. */
export function keepProblem(messages: readonly Message[], images: readonly ChatImage[]): string {
  const kept = sum([...imagesOf(messages), ...images].map((one) => one.bytes.length));
  return kept > MAX_KEPT_BYTES
    ? `This browser keeps ${formatBytes(MAX_KEPT_BYTES)} of images for a conversation with its branches: begin a new conversation.`
    : '';
}

/** The images of messages, first to last. */
export function imagesOf(messages: readonly Message[]): ChatImage[] {
  return messages.flatMap((one) => (one.role === 'user' ? (one.images ?? []) : []));
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}
