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
    unsupported: await failing({ n: 2 }),
    models: await models(),
  }),
);
