// An answer from its request to its end.

/** The body of a request for what follows a message. */
function requestOf(chat, upTo) {
  const body = {
    model: settings.model || undefined,
    messages: chat.messages(upTo, chat.system),
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
  };
  Object.assign(body, settings.samplers);
  if (settings.thinking) body.reasoning_effort = settings.thinking === "on" ? "medium" : "none";
  if (settings.format === "json") body.response_format = { type: "json_object" };
  if (settings.format === "schema" && settings.schema.trim()) {
    const schema = JSON.parse(settings.schema);
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  }
  if (settings.tools.trim()) body.tools = JSON.parse(settings.tools);
  return body;
}

/** Has the model answer the message of that number, or go on with it if it is an answer. */
async function answer(chat, parent, goesOn = false) {
  if (running) return;
  let body;
  try {
    body = requestOf(chat, parent);
  } catch (error) {
    notice(`The JSON of the settings cannot be read: ${error.message}`);
    return;
  }
  const isJson = body.response_format !== undefined;
  let index = parent;
  if (goesOn) {
    Object.assign(body, { continue_final_message: true, add_generation_prompt: false });
    delete chat.nodes[parent].end;
  } else index = chat.add(parent, { role: "assistant", text: "", isJson });
  const node = chat.nodes[index];
  delete node.trouble;
  const run = new Run(chat, node);
  running = run;
  chat.updated = Date.now();
  notice(chats.save(chat));
  drawMessages();
  drawChats();
  drawSend();
  toEnd();
  try {
    await run.follow(body);
  } catch (error) {
    run.fail(error);
  }
  running = null;
  run.end();
  drawSend();
  if (run.wantsKey && (await askKey("The server wants an API key to answer."))) retry(chat, node);
}

/** Answers once more in the place of an answer that came to nothing. */
function retry(chat, node) {
  const index = chat.nodes.indexOf(node);
  if (!node.text && !node.thought && index === chat.nodes.length - 1) {
    chat.nodes.pop();
    delete chat.pick[node.parent];
  }
  answer(chat, node.parent);
}

/** An answer on its way: what came, when, and where it is shown. */
class Run {
  constructor(chat, node) {
    this.chat = chat;
    this.node = node;
    this.view = null;
    this.abort = new AbortController();
    this.start = performance.now();
    this.first = 0;
    this.thoughtEnd = 0;
    this.frame = 0;
    this.saved = this.start;
    this.wantsKey = false;
    // Whether the page goes away, which breaks the connection.
    this.isLeft = false;
    this.finish = "";
  }

  async follow(body) {
    this.view?.say("Waiting for the server…");
    speaker.begin();
    const onWait = (left, why) => {
      const text = left ? `${why} Trying again in ${plural(left, "second")}.` : "Waiting for the server…";
      this.view?.say(text);
    };
    for await (const chunk of api.chunks(body, this.abort.signal, onWait)) this.take(chunk);
  }

  take(chunk) {
    const { node } = this;
    if (chunk.model) node.model = chunk.model;
    const progress = chunk.prompt_progress;
    if (progress && !this.first) {
      const done = Math.min(progress.processed, progress.total);
      if (done < progress.total) {
        this.view?.say(`Reading the prompt, ${number(done)} of ${plural(progress.total, "token")}`, done / progress.total);
      } else this.view?.say("Waiting for the first token…");
    }
    if (chunk.usage) this.usage(chunk.usage);
    if (chunk.timings) this.timings = chunk.timings;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    if (choice.finish_reason) this.finish = choice.finish_reason;
    const delta = choice.delta ?? {};
    const thought = delta.reasoning_content ?? delta.reasoning ?? "";
    const text = delta.content ?? "";
    if (!thought && !text && !delta.tool_calls?.length) return;
    if (!this.first) {
      this.first = performance.now();
      this.view?.say("");
    }
    if (thought) node.thought = (node.thought ?? "") + thought;
    if ((text || delta.tool_calls) && node.thought && !this.thoughtEnd) this.thoughtEnd = performance.now();
    if (text) {
      node.text += text;
      if (this.chat === shown.chat) speaker.push(text);
    }
    for (const call of delta.tool_calls ?? []) this.call(call);
    this.schedule();
  }

  call({ index = 0, id, function: { name, arguments: args } = {} }) {
    const calls = (this.node.calls ??= []);
    const call = (calls[index] ??= { id: "", name: "", args: "" });
    for (let i = 0; i < index; i++) calls[i] ??= { id: "", name: "", args: "" };
    if (id) call.id = id;
    if (name) call.name = name;
    if (args) call.args += args;
  }

  usage(usage) {
    this.tokens = usage.completion_tokens;
    this.prompt = usage.prompt_tokens;
    this.cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  }

  /** Draws before the next frame; rarely, if drawing takes long. */
  schedule() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      const start = performance.now();
      const follows = isAtEnd();
      this.view?.update(true);
      if (follows && this.chat === shown.chat) toEnd();
      const cost = performance.now() - start;
      if (start - this.saved > 2000) {
        this.saved = start;
        chats.save(this.chat);
      }
      const rest = () => {
        this.frame = 0;
        if (running === this && this.isBehind()) this.schedule();
      };
      if (cost > 8) setTimeout(rest, cost * 4);
      else rest();
    });
  }

  isBehind() {
    const { view, node } = this;
    return view !== null && (view.written.text < node.text.length || view.written.thought < (node.thought ?? "").length);
  }

  fail(error) {
    const { node } = this;
    if (error.name === "AbortError" || this.isLeft) {
      node.end = this.isLeft ? "cut" : "stopped";
      return;
    }
    node.end = "trouble";
    node.trouble = error instanceof Trouble ? error.message : `Something failed in this page: ${error.message}`;
    this.wantsKey = error.status === 401;
    if (!(error instanceof Trouble)) console.error(error);
  }

  end() {
    const { chat, node, timings } = this;
    cancelAnimationFrame(this.frame);
    node.end ??= this.finish === "length" ? "length" : "done";
    const now = performance.now();
    const seconds = (now - this.first) / 1000;
    const measured = this.first && this.tokens > 1 && seconds > 0 ? (this.tokens - 1) / seconds : 0;
    node.stats = {
      speed: timings?.predicted_per_second || measured,
      first: this.first ? (this.first - this.start) / 1000 : 0,
      tokens: this.tokens ?? timings?.predicted_n,
      prompt: this.prompt ?? (timings ? timings.prompt_n + timings.cache_n : undefined),
      cached: this.cached ?? timings?.cache_n,
    };
    if (node.thought) node.stats.thinking = ((this.thoughtEnd || now) - this.first) / 1000;
    chat.updated = Date.now();
    const problem = chats.save(chat);
    const follows = isAtEnd();
    this.view?.say("");
    this.view?.update(false);
    finishViews();
    if (chat === shown.chat) {
      speaker.end();
      if (follows) toEnd();
      const said = { stopped: "Stopped.", trouble: node.trouble, length: "The answer is cut." };
      $("status").textContent = said[node.end] ?? "The answer is complete.";
    } else toast(`The answer in “${chat.title}” has ended.`);
    if (problem) notice(problem);
    drawChats();
  }
}

function stop() {
  running?.abort.abort();
}

