import { describe, expect, it } from 'vitest';
import { parseBlocks } from '#lib/markdown/parse.ts';
import { highlight } from '#lib/markdown/highlight.ts';
import { sanitize } from '#lib/markdown/sanitize.ts';
import { PAYLOADS } from './payloads.ts';

const ALLOWED = new Set(
  'a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i li ol p pre s span strong table tbody td th thead tr ul'.toUpperCase().split(' '),
);
const ATTRIBUTES = new Set(['href', 'title', 'start', 'align', 'rel', 'target', 'class']);

/** What is wrong with drawn HTML; empty for safe HTML. */
function dangers(html: string): string[] {
  const body = new DOMParser().parseFromString(`<body>${html}</body>`, 'text/html').body;
  const found: string[] = [];
  for (const element of body.querySelectorAll('*')) {
    if (!ALLOWED.has(element.tagName)) found.push(element.tagName);
    for (const { name, value } of element.attributes) {
      if (!ATTRIBUTES.has(name)) found.push(`${element.tagName} ${name}`);
      if (name === 'href' && !/^(https?:\/\/|mailto:)/i.test(value)) found.push(value);
    }
    if (element.hasAttribute('href') && !element.getAttribute('rel')?.includes('noopener')) found.push('no rel');
  }
  return found;
}

function draw(text: string): string {
  return parseBlocks(text)
    .map((block) => (block.kind === 'html' ? block.html : ''))
    .join('');
}

describe.each(PAYLOADS)('%s', (payload) => {
  it.each([
    ['alone', payload],
    ['in a sentence', `before ${payload} after`],
    ['in a list', `- one\n- ${payload}`],
    ['in a table', `| a |\n| - |\n| ${payload.replaceAll('|', '')} |`],
    ['as a link', `[click](${payload})`],
    ['as an image', `![x](${payload} "${payload}")`],
    ['as the text of a link', `[${payload}](https://example.org)`],
    ['in a heading', `# ${payload}`],
    ['as the language of code', `\`\`\`${payload}\nx\n\`\`\``],
  ])('is inert %s', (_, text) => {
    expect(dangers(draw(text))).toEqual([]);
  });

  it('is inert as HTML', () => {
    expect(dangers(sanitize(payload))).toEqual([]);
  });

  it('is inert in highlighted code', async () => {
    expect(dangers((await highlight(payload, 'xml')) ?? '')).toEqual([]);
    expect(dangers((await highlight(payload, 'javascript')) ?? '')).toEqual([]);
  });
});

describe('Markdown', () => {
  it('keeps the marks of text', () => {
    const html = draw('# One\n\n**bold** *it* `x` [a](https://example.org)\n\n| a | b |\n| --- | --: |\n| 1 | 2 |\n\n1. one\n2. two');
    for (const part of ['<h1>', '<strong>', '<em>', '<code>', '<table>', '<ol>', 'href="https://example.org"', 'target="_blank"']) expect(html).toContain(part);
  });

  it('shows what looks like HTML as text', () => {
    expect(draw('a <b>bold</b> claim')).toContain('&lt;b&gt;');
  });

  it('makes an image a link', () => {
    expect(draw('![cat](https://example.org/cat.png)')).not.toContain('<img');
    expect(draw('![cat](https://example.org/cat.png)')).toContain('>cat</a>');
  });

  it('separates code from text', () => {
    const blocks = parseBlocks('text\n\n```python title="x"\nprint(1)\n```\n');
    expect(blocks.map((block) => block.kind)).toEqual(['html', 'code']);
    expect(blocks[1]).toMatchObject({ code: 'print(1)', language: 'python' });
  });

  it('does not parse what nobody reads as a page', () => {
    const text = '*a*'.repeat(150_000);
    expect(parseBlocks(text)).toEqual([{ kind: 'code', code: text, language: '', raw: text }]);
  });

  it('highlights known languages only', async () => {
    expect(await highlight('let x = 1', 'javascript')).toContain('hljs-keyword');
    expect(await highlight('let x = 1', 'no-such-language')).toBeUndefined();
  });
});
