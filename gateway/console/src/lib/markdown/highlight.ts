import { sanitizeHighlighted } from './sanitize.ts';

const MAX_CHARACTERS = 50_000;
let loading: Promise<typeof import('highlight.js/lib/common')> | undefined;

/** Safe HTML of code in a language; undefined for what stays plain. The highlighter is loaded on first use. */
export async function highlight(code: string, language: string): Promise<string | undefined> {
  if (!language || code.length > MAX_CHARACTERS) return undefined;
  loading ??= import('highlight.js/lib/common');
  const { default: hljs } = await loading;
  if (!hljs.getLanguage(language)) return undefined;
  return sanitizeHighlighted(hljs.highlight(code, { language, ignoreIllegals: true }).value);
}
