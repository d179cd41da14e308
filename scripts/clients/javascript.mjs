// What JavaScript clients get from `teff serve`: sessions of the npm packages `openai`, `@anthropic-ai/sdk`, `ollama`
// and `ai` (Vercel's) against a server that listens already. `scripts/clients/check.sh` installs them and runs it.
//
//     node javascript.mjs http://127.0.0.1:8080

import assert from "node:assert";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { embed, generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";

const url = process.argv[2];
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });
const claude = new Anthropic({ baseURL: url, apiKey: "any", maxRetries: 0 });
const ollama = new Ollama({ host: url });
const vercel = createOpenAICompatible({ name: "teff", baseURL: `${url}/v1`, apiKey: "any", supportsStructuredOutputs: true });

const model = (await openai.models.list()).data[0].id;
const question = "What is the capital of France?";
const messages = [{ role: "user", content: question }];
const short = { model, messages, max_tokens: 24, temperature: 0 };
const answer = (await openai.chat.completions.create(short)).choices[0].message.content;
const city = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const options = { num_predict: 24, temperature: 0 };

async function joined(stream, text) {
  let all = "";
  for await (const event of stream) all += text(event) ?? "";
  return all;
}

const checks = {
  async openaiStreams() {
    const stream = await openai.chat.completions.create({ ...short, stream: true });
    assert.equal(await joined(stream, (chunk) => chunk.choices[0]?.delta.content), answer);
    assert.equal(await openai.chat.completions.stream(short).finalContent(), answer);
  },
  async openaiReadsDocuments() {
    const response_format = { type: "json_schema", json_schema: { name: "city", strict: true, schema: city } };
    const parsed = await openai.chat.completions.parse({ ...short, max_tokens: 80, response_format });
    assert.equal(typeof parsed.choices[0].message.parsed.city, "string");
  },
  async openaiCallsTools() {
    const tools = [{ type: "function", function: { name: "weather", parameters: city } }];
    const called = await openai.chat.completions.create({ ...short, max_tokens: 80, tools, tool_choice: "required" });
    const call = called.choices[0].message.tool_calls[0];
    assert.equal(call.function.name, "weather");
    assert.equal(typeof JSON.parse(call.function.arguments).city, "string");
  },
  async openaiUsesResponses() {
    const request = { model, input: question, max_output_tokens: 24, temperature: 0 };
    assert.equal((await openai.responses.create(request)).output_text, answer);
    assert.equal((await openai.responses.stream(request).finalResponse()).output_text, answer);
  },
  async openaiCompletesAndEmbeds() {
    assert((await openai.completions.create({ model, prompt: "One, two,", max_tokens: 4 })).choices[0].text);
    // Asked for as base64, which the package decodes.
    const { data } = await openai.embeddings.create({ model, input: ["a cold night", "numbers"] });
    assert(data.length === 2 && data[0].embedding.length === data[1].embedding.length && data[0].embedding.length > 0);
  },
  async openaiBreaksOff() {
    const abort = new AbortController();
    const stream = await openai.chat.completions.create({ ...short, max_tokens: 2000, stream: true }, { signal: abort.signal });
    let chunks = 0;
    for await (const _ of stream) if (++chunks === 3) abort.abort();
    assert.equal(chunks, 3);
  },
  async openaiIsToldErrors() {
    await assert.rejects(openai.chat.completions.create({ ...short, model: "other" }), (error) => {
      return error instanceof OpenAI.NotFoundError && error.code === "model_not_found";
    });
    await assert.rejects(openai.chat.completions.create({ ...short, temperature: -1 }), OpenAI.BadRequestError);
  },
  async anthropicAsksAndCallsTools() {
    assert.equal((await claude.messages.create(short)).content[0].text, answer);
    assert.equal(await claude.messages.stream(short).finalText(), answer);
    assert((await claude.messages.countTokens({ model, messages })).input_tokens > 0);
    const tools = [{ name: "weather", input_schema: city }];
    const request = { ...short, max_tokens: 80, tools, tool_choice: { type: "tool", name: "weather" } };
    const [call] = (await claude.messages.stream(request).finalMessage()).content;
    assert(call.type === "tool_use" && typeof call.input.city === "string");
  },
  async ollamaAsksAndLists() {
    assert.equal((await ollama.chat({ model, messages, options })).message.content, answer);
    const stream = await ollama.chat({ model, messages, options, stream: true });
    assert.equal(await joined(stream, (part) => part.message.content), answer);
    assert((await ollama.generate({ model, prompt: "One, two,", options: { num_predict: 4 } })).response);
    assert.equal((await ollama.embed({ model, input: ["a", "b"] })).embeddings.length, 2);
    assert.equal((await ollama.list()).models[0].model, model);
    assert.equal((await ollama.show({ model })).details.format, "gguf");
  },
  async vercelAsksReadsAndEmbeds() {
    const asked = { model: vercel(model), prompt: question, maxOutputTokens: 24, temperature: 0 };
    assert.equal((await generateText(asked)).text, answer);
    assert.equal(await joined(streamText(asked).textStream, (text) => text), answer);
    const { object } = await generateObject({ ...asked, maxOutputTokens: 80, schema: jsonSchema(city) });
    assert.equal(typeof object.city, "string");
    const weather = tool({ description: "Weather of a city", inputSchema: jsonSchema(city), execute: async () => "sunny" });
    const called = await generateText({ ...asked, maxOutputTokens: 80, toolChoice: "required", tools: { weather } });
    assert.equal(called.toolCalls[0].toolName, "weather");
    assert((await embed({ model: vercel.embeddingModel(model), value: "a cold night" })).embedding.length > 0);
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}: ${error.message}`);
  }
}
console.log(`${Object.keys(checks).length - failed} of ${Object.keys(checks).length} pass`);
process.exit(failed ? 1 : 0);
