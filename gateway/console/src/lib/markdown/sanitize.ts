import DOMPurify, { type Config } from 'dompurify';

const TAGS = [
  'a', 'b', 'blockquote', 'br', 'code', 'del', 'em', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr', 'i', 'li', 'ol', 'p',
  'pre', 's', 'span', 'strong', 'table', 'tbody', 'td', 'th', 'thead', 'tr', 'ul',
];
const CONFIG: Config = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ['href', 'title', 'start', 'align'],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
};
const HIGHLIGHTED: Config = { ALLOWED_TAGS: ['span'], ALLOWED_ATTR: ['class'], ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false };

const SAFE_LINK = /^(?:https?:\/\/|mailto:)/i;

const purify = DOMPurify();
purify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName !== 'A') return;
  if (!isSafeLink(node.getAttribute('href') ?? '')) {
    node.removeAttribute('href');
    return;
  }
  node.setAttribute('rel', 'noopener noreferrer nofollow');
  node.setAttribute('target', '_blank');
});

/** Whether a link may be followed: to the web or to a mailbox, with no trick in its beginning. */
export function isSafeLink(href: string): boolean {
  return SAFE_LINK.test(href) && !/[\u0000-\u001f\u007f]/.test(href);
}

/** HTML of which only the marks of text are left: no images, scripts, styles, forms, frames, or ids. */
export function sanitize(html: string): string {
  return purify.sanitize(html, CONFIG);
}

/** HTML of highlighted code, of which only spans with classes are left. */
export function sanitizeHighlighted(html: string): string {
  return purify.sanitize(html, HIGHLIGHTED);
}
