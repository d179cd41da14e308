// Messages as people see them.

/** A symbol of the page's own set. */
function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button with a symbol, a name for those who do not see it, and what it does. */
function iconButton(name, label, act) {
  const button = element("button", "icon", icon(name));
  button.type = "button";
  button.title = label;
  button.setAttribute("aria-label", label);
  button.dataset.act = act;
  return button;
}

const number = (n, digits = 0) => n.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;

/** Speeds and sizes of an answer in words. */
function statsText({ speed, first, tokens, prompt, cached }) {
  const parts = [];
  if (speed > 0) parts.push(`${number(speed, 1)} tokens/s`);
  if (first > 0) parts.push(`first token after ${number(first, first < 10 ? 2 : 1)} s`);
  if (tokens !== undefined) parts.push(plural(tokens, "token"));
  if (prompt !== undefined) {
    const share = cached > 0 ? `, ${number(cached)} of them cached` : "";
    parts.push(`prompt ${plural(prompt, "token")}${share}`);
  }
  return parts.join(" · ");
}

const ENDS = {
  length: "The answer reached its longest length.",
  stopped: "Stopped.",
  cut: "This answer was interrupted.",
};

/** One message. An answer that is being written is updated with what is new of it. */
class MessageView {
  constructor(chat, index) {
    this.chat = chat;
    this.index = index;
    this.node = chat.nodes[index];
    const { role } = this.node;
    this.el = element("article", `message ${role}`);
    this.el.dataset.index = index;
    const names = { user: "You", assistant: "Answer", tool: "Result of a tool" };
    this.el.append(element("h2", "hidden", names[role]));
    if (role === "assistant") this.makeAnswer();
    else {
      this.body = element("div", "body plain", this.node.text);
      if (role === "tool") this.el.append(element("p", "label", "Result"));
      this.el.append(this.body);
    }
    this.foot = element("div", "foot");
    this.el.append(this.foot);
  }

  makeAnswer() {
    this.summary = element("summary", "", "Thought");
    this.thought = document.createTextNode("");
    this.details = element("details", "thought", this.summary, element("div", "plain", this.thought));
    this.details.hidden = true;
    this.body = element("div", "body md");
    this.markdown = new Markdown(this.body);
    this.calls = element("div", "calls");
    this.state = element("p", "state");
    this.state.hidden = true;
    this.trouble = element("p", "trouble");
    this.trouble.hidden = true;
    this.el.append(this.details, this.body, this.calls, this.state, this.trouble);
    this.written = { text: 0, thought: 0, calls: "" };
  }

  /** Writes what has been added to the message since. */
  update(isRunning) {
    const { node, written } = this;
    if (node.role !== "assistant") return;
    if (written.thought < (node.thought ?? "").length) {
      this.details.hidden = false;
      this.thought.appendData(node.thought.slice(written.thought));
      written.thought = node.thought.length;
    }
    const isThinking = isRunning && !node.text && !node.calls?.length;
    const seconds = node.stats?.thinking;
    const done = seconds >= 0.1 ? `Thought for ${number(seconds, seconds < 10 ? 1 : 0)} s` : "Thought";
    const summary = isThinking ? "Thinking…" : done;
    if (this.summary.textContent !== summary) this.summary.textContent = summary;
    if (written.text < node.text.length) {
      const isJson = node.isJson && written.text === 0;
      this.markdown.push((isJson ? "```json\n" : "") + node.text.slice(written.text));
      written.text = node.text.length;
    }
    this.writeCalls(isRunning);
    this.el.setAttribute("aria-busy", String(isRunning));
    this.el.classList.toggle("running", isRunning);
  }

  writeCalls(isRunning) {
    const calls = this.node.calls ?? [];
    const text = JSON.stringify([calls, isRunning]);
    if (!calls.length || text === this.written.calls) return;
    this.written.calls = text;
    this.calls.replaceChildren();
    for (const [i, { name, args }] of calls.entries()) {
      const head = element("p", "label", "Calls ", element("code", "", name));
      const card = element("div", "call", head, element("pre", "", element("code", "", pretty(args))));
      this.calls.append(card);
      const isOpen = !isRunning && !this.chat.following(this.index).length;
      if (isOpen) card.append(this.resultField(i, name));
    }
    if (!isRunning && !this.chat.following(this.index).length) {
      const send = element("button", "primary small", "Send results");
      send.type = "button";
      send.dataset.act = "send-results";
      this.calls.append(send);
    }
  }

  resultField(i, name) {
    const label = element("label", "", `What ${name} gave`);
    const area = element("textarea");
    area.rows = 2;
    area.id = `result-${this.index}-${i}`;
    label.htmlFor = area.id;
    return element("div", "result", label, area);
  }

  /** What the answer waits for, in words; with a share where it is known. */
  say(text, share = null) {
    this.state.hidden = !text;
    this.state.replaceChildren();
    if (!text) return;
    const dots = element("span", "dots", element("i"), element("i"), element("i"));
    dots.setAttribute("aria-hidden", "true");
    this.state.append(dots, element("span", "", text));
    if (share !== null) {
      const bar = element("progress");
      bar.max = 1;
      bar.value = share;
      bar.setAttribute("aria-label", text);
      this.state.append(bar);
    }
  }

  /** The line below: buttons, versions, figures. */
  finish(isRunning, isLast) {
    const { node, foot } = this;
    foot.replaceChildren();
    if (isRunning) return;
    const siblings = this.chat.following(node.parent);
    if (siblings.length > 1) foot.append(this.versions(siblings));
    if (node.text) foot.append(iconButton("copy", "Copy", "copy"));
    if (node.role === "user") foot.append(iconButton("edit", "Edit", "edit"));
    if (node.role === "assistant") {
      foot.append(iconButton("again", "Regenerate", "again"));
      const isOpen = isLast && node.text && ["length", "stopped", "cut"].includes(node.end) && !node.calls?.length;
      if (isOpen) foot.append(iconButton("on", "Continue", "continue"));
      const end = node.end === undefined ? ENDS.cut : ENDS[node.end];
      const stats = node.stats ? statsText(node.stats) : "";
      const words = [end, stats, node.model].filter(Boolean).join(" ");
      const line = element("span", "stats", [end, stats].filter(Boolean).join(" "));
      line.title = words;
      foot.append(line);
      this.trouble.hidden = !node.trouble;
      this.trouble.textContent = node.trouble ?? "";
    }
  }

  versions(siblings) {
    const at = siblings.indexOf(this.index);
    const back = iconButton("back", "Earlier version", "earlier");
    const next = iconButton("next", "Later version", "later");
    back.disabled = at === 0;
    next.disabled = at === siblings.length - 1;
    const place = element("span", "", `${at + 1}/${siblings.length}`);
    place.setAttribute("aria-label", `Version ${at + 1} of ${siblings.length}`);
    const group = element("span", "versions", back, place, next);
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", "Versions");
    return group;
  }
}

/** JSON on several lines; other texts as they are. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Characters after which a sentence is told although it goes on. */
const SENTENCE_MAX = 400;

/** Reads an answer to those who listen, sentence by sentence. */
class Speaker {
  constructor(el) {
    this.el = el;
    this.text = "";
  }

  begin() {
    this.text = "";
    this.el.replaceChildren();
  }

  push(text) {
    this.text += text;
    // A sentence ends before a blank, so the mark may be the last of what was there before.
    const from = Math.max(0, this.text.length - text.length - 2);
    const tail = this.text.slice(from);
    const end = Math.max(tail.search(/[.!?:;]["')\]]?\s/), tail.indexOf("\n"));
    if (end >= 0) this.cut(from + end + 1);
    else if (this.text.length > SENTENCE_MAX) this.cut(this.text.length);
  }

  cut(end) {
    this.say(this.text.slice(0, end));
    this.text = this.text.slice(end);
  }

  end() {
    this.say(this.text);
    this.text = "";
  }

  say(text) {
    const words = text.replace(/[*_`#|>~]+/g, " ").replace(/\s+/g, " ").trim();
    if (words) this.el.append(element("p", "", words));
    while (this.el.childNodes.length > 40) this.el.firstChild.remove();
  }
}
