/** Why a text is not a JSON Schema that can be enforced; empty if it may be. The engine has the last word. */
export function schemaProblem(text: string): string {
  if (!text.trim()) return 'Enter a JSON Schema.';
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return `Not JSON: ${(error as Error).message}`;
  }
  return problemAt(value, '');
}

const TYPES = new Set(['null', 'boolean', 'object', 'array', 'number', 'string', 'integer']);
/** Keywords whose value is a schema, a list of schemas, or schemas by name. */
const ONE = ['additionalProperties', 'items', 'not', 'contains', 'propertyNames', 'if', 'then', 'else'];
const LISTS = ['allOf', 'anyOf', 'oneOf', 'prefixItems'];
const NAMED = ['properties', 'patternProperties', '$defs', 'definitions'];

function problemAt(schema: unknown, path: string): string {
  const where = path || 'the schema';
  if (typeof schema === 'boolean') return path ? '' : 'The schema must be an object.';
  if (!isObject(schema)) return `${where} must be an object.`;
  const { type, required, enum: values } = schema;
  const types = Array.isArray(type) ? type : type === undefined ? [] : [type];
  const unknown = types.find((one) => typeof one !== 'string' || !TYPES.has(one));
  if (unknown !== undefined) return `${where}: there is no type ${JSON.stringify(unknown)}.`;
  if (required !== undefined && !(Array.isArray(required) && required.every((one) => typeof one === 'string'))) return `${where}: required must be a list of names.`;
  if (values !== undefined && !(Array.isArray(values) && values.length > 0)) return `${where}: enum must be a list of values.`;
  return nestedProblem(schema, path);
}

function nestedProblem(schema: Record<string, unknown>, path: string): string {
  for (const [key, value] of Object.entries(schema)) {
    const inner = `${path}/${key}`;
    let problem = '';
    if (ONE.includes(key)) problem = problemAt(value, inner);
    else if (LISTS.includes(key)) problem = Array.isArray(value) ? firstOf(value.map((one, at) => problemAt(one, `${inner}/${at}`))) : `${inner} must be a list.`;
    else if (NAMED.includes(key)) problem = isObject(value) ? firstOf(Object.entries(value).map(([name, one]) => problemAt(one, `${inner}/${name}`))) : `${inner} must be an object.`;
    if (problem) return problem;
  }
  return '';
}

function firstOf(problems: string[]): string {
  return problems.find(Boolean) ?? '';
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Why an answer does not satisfy a schema; empty if it does. */
export async function mismatch(schema: string, answer: string): Promise<string> {
  let value: unknown;
  try {
    value = JSON.parse(answer);
  } catch {
    return 'The answer is not complete JSON.';
  }
  // It interprets schemas: the pages may not compile code.
  const { Validator } = await import('@cfworker/json-schema');
  const result = new Validator(JSON.parse(schema) as object, '2020-12').validate(value);
  const first = result.errors.at(-1);
  return result.valid ? '' : `${first?.instanceLocation ?? ''} ${first?.error ?? 'does not match'}`.trim();
}
