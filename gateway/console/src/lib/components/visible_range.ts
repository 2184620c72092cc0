const MARGIN_ROWS = 6;

/** Which rows of a list are drawn: those in view, and some on both sides. */
export function visibleRange(count: number, rowHeightPx: number, scrollTop: number, viewHeight: number): { first: number; end: number } {
  const first = Math.max(0, Math.floor(scrollTop / rowHeightPx) - MARGIN_ROWS);
  const end = Math.min(count, Math.ceil((scrollTop + viewHeight) / rowHeightPx) + MARGIN_ROWS);
  return { first: Math.min(first, Math.max(0, count - 1)), end };
}
