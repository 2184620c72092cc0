// Uses OpenAI's client as its documentation shows, and prints what it saw as one JSON object.
// Usage: node client.mjs BASE_URL MODEL PROMPT
import OpenAI from "openai";

const [baseURL, model, prompt] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: prompt }];
const options = { model, messages, temperature: 0, max_tokens: 40 };

async function whole() {
  const answer = await client.chat.completions.create(options);
  const { message, finish_reason } = answer.choices[0];
  return { text: message.content, finish_reason, usage: answer.usage, id: answer.id };
}

async function streamed() {
  const stream = await client.chat.completions.create({
    ...options,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return { text, usage };
}

async function cancelled() {
  const stream = await client.chat.completions.create({ ...options, max_tokens: 9000, stream: true });
  let chunks = 0;
  for await (const chunk of stream) {
    chunks += chunk.choices.length;
    if (chunks === 3) {
      stream.controller.abort();
    }
  }
  return { chunks };
}

async function called() {
  const parameters = {
    type: "object",
    properties: { unit: { enum: ["c", "f"] } },
    required: ["unit"],
    additionalProperties: false,
  };
  const tools = [{ type: "function", function: { name: "measure", parameters } }];
  const stream = client.chat.completions.stream({
    ...options,
    max_tokens: 200,
    n: 2,
    tools,
    tool_choice: "required",
    parallel_tool_calls: false,
  });
  const { choices } = await stream.finalChatCompletion();
  return choices.map(({ finish_reason, message }) => ({
    finish_reason,
    calls: message.tool_calls.map(({ function: f }) => [f.name, JSON.parse(f.arguments)]),
  }));
}

async function failing(change) {
  try {
    await client.chat.completions.create({ ...options, ...change });
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
  return null;
}

async function models() {
  const ids = [];
  for await (const one of client.models.list()) {
    ids.push(one.id);
  }
  return ids;
}

console.log(
  JSON.stringify({
    whole: await whole(),
    streamed: await streamed(),
    cancelled: await cancelled(),
    unknown_model: await failing({ model: "nix" }),
    illegal: await failing({ temperature: 11 }),
    unsupported: await failing({ modalities: ["text", "audio"] }),
    called: await called(),
    models: await models(),
  }),
);
