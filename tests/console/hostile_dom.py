"""What hostile text must never make of a page."""

from __future__ import annotations

from playwright.async_api import Page

from tests.console.browsing import Visit

# Before any script of the page: what payloads call.
TRAP = "window.pwned = () => { window.wasPwned = true; }; "
LOOK = """
() => {
  const found = [];
  const origin = location.origin;
  const addresses = ['src', 'href', 'xlink:href', 'action', 'formaction', 'data', 'poster',
                     'srcset', 'srcdoc', 'background', 'ping', 'manifest', 'cite'];
  const own = (text) => {
    try {
      const url = new URL(text, location.href);
      return url.origin === origin || ['blob:'].includes(url.protocol) ||
        (url.protocol === 'data:' && url.pathname.startsWith('image/'));
    } catch { return false; }
  };
  const safeLink = (node, text) =>
    node.tagName === 'A' && /^(https?|mailto):/i.test(text) && /noopener/.test(node.rel);
  for (const node of document.querySelectorAll('*')) {
    const shown = node.outerHTML.slice(0, 200);
    if (['IFRAME', 'OBJECT', 'EMBED', 'BASE', 'FRAME', 'APPLET', 'XSS', 'MATH', 'MARQUEE']
        .includes(node.tagName.toUpperCase())) found.push(`element: ${shown}`);
    if (node.tagName === 'META' && /refresh/i.test(node.httpEquiv)) found.push(`meta: ${shown}`);
    if (node.tagName === 'SCRIPT' && node.closest('main')) found.push(`script: ${shown}`);
    for (const { name, value } of node.attributes) {
      if (/^on/i.test(name)) found.push(`handler: ${shown}`);
      if (name === 'style' && /url\\(|expression/i.test(value)) found.push(`style: ${shown}`);
      if (addresses.includes(name) && !own(value) && !safeLink(node, value))
        found.push(`address ${name}: ${shown}`);
    }
  }
  if (window.wasPwned) found.push('a script of a payload ran');
  return found;
}
"""


async def trap(visit: Visit) -> None:
    """From the next page on, what payloads call is there, and noted."""
    await visit.context.add_init_script(TRAP)


async def assert_harmless(page: Page) -> None:
    """Nothing in the page runs, loads or sends anything by a text's will.

    The page's Visit fails as well on dialogs, violations of its policy and foreign requests.
    """
    found = await page.evaluate(LOOK)
    assert not found, "\n".join([page.url, *found])
