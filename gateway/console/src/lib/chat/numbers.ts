import type { Settings } from './types.ts';

/** A number among the settings, with its legal range in the contract. */
export interface NumberField {
  key: 'temperature' | 'topP' | 'topK' | 'minP' | 'repetitionPenalty' | 'presencePenalty' | 'frequencyPenalty' | 'maxTokens' | 'budgetTokens';
  label: string;
  hint: string;
  min: number;
  max: number;
  step: number;
  placeholder: string;
}

export const SAMPLING: readonly NumberField[] = [
  { key: 'temperature', label: 'Temperature', hint: '0 takes the most likely token.', min: 0, max: 10, step: 0.1, placeholder: '0' },
  { key: 'topP', label: 'Top P', hint: 'Above 0, at most 1.', min: 0.01, max: 1, step: 0.01, placeholder: '1' },
  { key: 'topK', label: 'Top K', hint: '0 keeps all tokens.', min: 0, max: 1_000_000, step: 1, placeholder: '0' },
  { key: 'minP', label: 'Min P', hint: '0 keeps all tokens.', min: 0, max: 1, step: 0.01, placeholder: '0' },
  { key: 'repetitionPenalty', label: 'Repetition penalty', hint: '1 is off.', min: 0.01, max: 10, step: 0.05, placeholder: '1' },
  { key: 'presencePenalty', label: 'Presence penalty', hint: '0 is off.', min: -2, max: 2, step: 0.1, placeholder: '0' },
  { key: 'frequencyPenalty', label: 'Frequency penalty', hint: '0 is off.', min: -2, max: 2, step: 0.1, placeholder: '0' },
];

export const MAX_TOKENS: NumberField = {
  key: 'maxTokens', label: 'Max tokens', hint: 'Of an answer.', min: 1, max: 1_000_000, step: 1, placeholder: '512',
};

export const BUDGET: NumberField = {
  key: 'budgetTokens', label: 'Reasoning budget', hint: 'Tokens of reasoning at most.', min: 1, max: 1_000_000, step: 1, placeholder: 'no limit',
};

/** Why a number is illegal; empty for a legal one, and for none. */
export function problemOf(field: NumberField, value: number | null): string {
  if (value === null) return '';
  if (!Number.isFinite(value)) return 'Not a number.';
  if (value < field.min || value > field.max) return `From ${field.min} to ${field.max.toLocaleString('en')}.`;
  return field.step === 1 && !Number.isInteger(value) ? 'A whole number.' : '';
}

/** Why a seed is illegal; empty for a legal one, and for none. */
export function seedProblem(seed: string): string {
  return seed === '' || (/^[0-9]{1,20}$/.test(seed) && BigInt(seed) < 2n ** 64n) ? '' : 'A whole number from 0 to 2^64 - 1.';
}

/** Whether the settings can be sent. */
export function areLegal(settings: Settings, schemaProblem: string): boolean {
  const numbers = [...SAMPLING, MAX_TOKENS, BUDGET];
  return numbers.every((field) => problemOf(field, settings[field.key]) === '') && seedProblem(settings.seed) === '' && (settings.output !== 'schema' || schemaProblem === '');
}
