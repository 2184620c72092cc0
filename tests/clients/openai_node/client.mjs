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

async function failing(change, create = (body) => client.chat.completions.create(body)) {
  try {
    await create({ ...options, ...change });
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
  return null;
}

async function responses() {
  const asked = { model, input: prompt, temperature: 0, max_output_tokens: 40 };
  const answer = await client.responses.create(asked);
  const events = [];
  let text = "";
  for await (const event of await client.responses.create({ ...asked, stream: true })) {
    events.push(event.type);
    text += event.type === "response.output_text.delta" ? event.delta : "";
  }
  return { text: answer.output_text, status: answer.status, usage: answer.usage, streamed: text, events };
}

async function in_background() {
  const asked = { model, input: prompt, temperature: 0, max_output_tokens: 40 };
  const { id } = await client.responses.create({ ...asked, background: true });
  const numbers = [];
  const read = { stream: true, starting_after: 1 };
  for await (const event of await client.responses.retrieve(id, read)) {
    numbers.push(event.sequence_number);
  }
  const long = { ...asked, max_output_tokens: 2000, ignore_eos: true, background: true };
  const lasting = await client.responses.create(long);
  await client.responses.cancel(lasting.id);
  const { text } = await ended(id);
  return { numbers, text, cancelled: (await ended(lasting.id)).status };
}

async function ended(id) {
  for (;;) {
    const { status, output_text } = await client.responses.retrieve(id);
    if (status !== "queued" && status !== "in_progress") {
      return { status, text: output_text };
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
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
    unknown_response: await failing({}, () => client.responses.retrieve("resp_nix")),
    called: await called(),
    responses: await responses(),
    in_background: await in_background(),
    models: await models(),
  }),
);
