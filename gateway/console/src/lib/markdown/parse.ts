import { Marked, type Token, type Tokens } from 'marked';
import { isSafeLink, sanitize } from './sanitize.ts';

/** A part of a text that is drawn by itself, so that a growing answer draws only its last one again. */
export type Block = { kind: 'html'; html: string; raw: string } | { kind: 'code'; code: string; language: string; raw: string };

/** Longer texts are shown plain: nobody reads them as a page, and parsing them would stop the page. */
export const MAX_MARKDOWN_CHARACTERS = 400_000;

const marked = new Marked({
  gfm: true,
  breaks: true,
  async: false,
  renderer: {
    // What looks like HTML is text of the author.
    html: ({ text }) => escape(text),
    // An image would be loaded from elsewhere, and tell that the answer was read.
    image: ({ href, text }) => (isSafeLink(href) ? `<a href="${escape(href)}">${escape(text || href)}</a>` : escape(text)),
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
  },
});

/** The blocks of a text in Markdown; their HTML is safe. */
export function parseBlocks(text: string): Block[] {
  if (text.length > MAX_MARKDOWN_CHARACTERS) return [{ kind: 'code', code: text, language: '', raw: text }];
  return marked
    .lexer(text)
    .filter((token) => token.type !== 'space' && token.type !== 'def')
    .map(toBlock);
}

const made = new Map<string, Block>();
const MAX_MADE = 2_000;

function toBlock(token: Token): Block {
  if (token.type === 'code') {
    const { text, lang } = token as Tokens.Code;
    return { kind: 'code', code: text, language: /^[A-Za-z0-9+#._-]{1,40}/.exec(lang ?? '')?.[0].toLowerCase() ?? '', raw: token.raw };
  }
  const html = marked.parser([token]);
  const known = made.get(html);
  if (known) return known;
  const block: Block = { kind: 'html', html: sanitize(html), raw: token.raw };
  if (made.size >= MAX_MADE) made.clear();
  made.set(html, block);
  return block;
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
