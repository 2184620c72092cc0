import { base64Encode } from '@bufbuild/protobuf/wire';
import { imagesOf } from './images.ts';
import type { Conversation, Message } from './types.ts';

/** A conversation as a JSON document, with all its branches; images in base64. */
export function toJsonFile(conversation: Conversation, messages: readonly Message[]): string {
  return JSON.stringify({ format: 'mlxmesh-conversation', version: 1, conversation, messages: messages.map(withTextOfImages) }, null, 2);
}

function withTextOfImages(message: Message): object {
  const images = imagesOf([message]).map(({ name, type, bytes }) => ({ name, type, data: base64Encode(bytes) }));
  return images.length > 0 ? { ...message, images } : message;
}

/** The shown path of a conversation, as a text in Markdown. */
export function toMarkdownFile(title: string, path: readonly Message[]): string {
  const parts = path.map((message) => {
    if (message.role === 'user') return ['## You', ...imagesOf([message]).map(({ name }) => `(Image: ${name})`), message.text].filter(Boolean).join('\n\n');
    const calls = message.calls.map((call) => `Called \`${call.name}\`:\n\n${fenced(call.arguments)}\n\n${fenced(call.result)}`);
    return [`## ${message.version || message.model}`, message.text, ...calls].filter(Boolean).join('\n\n');
  });
  return `# ${title}\n\n${parts.join('\n\n')}\n`;
}

/** A block of code whose fence the code does not contain. */
function fenced(code: string): string {
  const longest = Math.max(2, ...Array.from(code.matchAll(/`+/g), ([run]) => run.length));
  const fence = '`'.repeat(longest + 1);
  return `${fence}\n${code}\n${fence}`;
}

/** Has the browser save a text as a file. */
export function download(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
