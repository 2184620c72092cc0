/** The end of a day of the user's own time zone, from the value of a date input; undefined without one. */
export function endOfDay(date: string): Date | undefined {
  const match = /^(\d{4})-(\d\d)-(\d\d)$/.exec(date);
  if (!match) return undefined;
  return new Date(Number(match[1]), Number(match[2]) - 1, Number(match[3]), 23, 59, 59);
}

/** What a person writes as patterns of models: separated by commas, spaces or lines. */
export function patternsIn(text: string): string[] {
  return text.split(/[\s,]+/).filter(Boolean);
}
