// What the browser keeps: conversations as trees of messages, and settings.

/** Characters of all conversations; browsers give a page some five million. */
const KEPT_MAX = 4_000_000;
/** Conversations. */
const CHATS_MAX = 500;
/** Characters of a file that is imported. */
const IMPORT_MAX = 20_000_000;
const ROLES = ["user", "assistant", "tool"];
const PREFIX = "teff.chat.";

/** The browser's storage, which may be forbidden or full. */
const storage = {
  get(key) {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  },
  remove(key) {
    try {
      localStorage.removeItem(key);
    } catch {
      // What cannot be written need not be removed.
    }
  },
  keys() {
    try {
      return Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
    } catch {
      return [];
    }
  },
  /** The conversation that is open in this tab, also after a reload. */
  get open() {
    try {
      return sessionStorage.getItem("teff.open");
    } catch {
      return null;
    }
  },
  set open(id) {
    try {
      sessionStorage.setItem("teff.open", id);
    } catch {
      // A reload begins a new conversation then.
    }
  },
  size(key) {
    return key.length + (localStorage.getItem(key)?.length ?? 0);
  },
};

/** A conversation: messages know what they follow, and `pick` which of several answers is shown. */
class Chat {
  constructor(kept = {}) {
    const now = Date.now();
    this.id = kept.id ?? crypto.getRandomValues(new Uint32Array(3)).join("-");
    this.title = kept.title ?? "";
    this.isNamed = kept.isNamed ?? false;
    this.created = kept.created ?? now;
    this.updated = kept.updated ?? now;
    this.system = kept.system ?? "";
    this.nodes = kept.nodes ?? [];
    this.pick = kept.pick ?? {};
  }

  /** Messages that follow one; -1 is the beginning. */
  following(parent) {
    const found = [];
    this.nodes.forEach((node, i) => {
      if (node.parent === parent) found.push(i);
    });
    return found;
  }

  /** Numbers of the messages that are shown, in their order. */
  path() {
    const next = new Map();
    this.nodes.forEach((node, i) => {
      if (this.pick[node.parent] === i || !next.has(node.parent)) next.set(node.parent, i);
      else if (!(node.parent in this.pick)) next.set(node.parent, i);
    });
    const path = [];
    for (let i = next.get(-1); i !== undefined; i = next.get(i)) path.push(i);
    return path;
  }

  /** Adds a message behind another and shows it. */
  add(parent, node) {
    this.nodes.push({ parent, at: Date.now(), ...node });
    const i = this.nodes.length - 1;
    this.pick[parent] = i;
    if (node.role === "user" && !this.title && !this.isNamed) {
      const line = node.text.trim().split("\n")[0];
      this.title = line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
    }
    return i;
  }

  /** The messages up to one, as the API has them. */
  messages(upTo, system) {
    const list = system.trim() ? [{ role: "system", content: system }] : [];
    const chain = [];
    for (let i = upTo; i >= 0; i = this.nodes[i].parent) chain.unshift(this.nodes[i]);
    for (const { role, text, thought, calls, call } of chain) {
      if (role === "tool") list.push({ role, tool_call_id: call, content: text });
      else if (role === "user") list.push({ role, content: text });
      else if (text || calls?.length) {
        const message = { role, content: text || null };
        if (thought) message.reasoning_content = thought;
        if (calls?.length) {
          message.tool_calls = calls.map(({ id, name, args }) => {
            return { id, type: "function", function: { name, arguments: args || "{}" } };
          });
        }
        list.push(message);
      }
    }
    return list;
  }

  hasWords(words) {
    const text = [this.title, ...this.nodes.map((node) => node.text)].join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  }

  markdown() {
    const names = { user: "You", assistant: "Model", tool: "Tool" };
    const parts = [`# ${this.title || "Conversation"}`];
    if (this.system.trim()) parts.push(`## Instructions\n\n${this.system.trim()}`);
    for (const i of this.path()) {
      const { role, text, thought, calls, model } = this.nodes[i];
      parts.push(`## ${names[role]}${role === "assistant" && model ? ` (${model})` : ""}`);
      if (thought) parts.push(thought.trim().replace(/^/gm, "> "));
      if (text) parts.push(text.trim());
      for (const { name, args } of calls ?? []) parts.push(`\`${name}\`\n\n\`\`\`json\n${args}\n\`\`\``);
    }
    return `${parts.join("\n\n")}\n`;
  }
}

/** All conversations. */
const chats = {
  all: new Map(),

  load() {
    this.all.clear();
    for (const key of storage.keys()) {
      const kept = storage.get(key);
      const problem = chatProblem(kept);
      if (!problem) this.all.set(kept.id, new Chat(kept));
    }
  },

  sorted() {
    return [...this.all.values()].sort((a, b) => b.updated - a.updated);
  },

  size() {
    return storage.keys().reduce((sum, key) => sum + storage.size(key), 0);
  },

  /** Keeps a conversation; a text says why it cannot be kept. Nothing else is removed for it. */
  save(chat) {
    if (!chat.nodes.length) return "";
    this.all.set(chat.id, chat);
    const key = PREFIX + chat.id;
    const text = JSON.stringify(chat);
    const others = storage.keys().filter((other) => other !== key);
    const size = others.reduce((sum, other) => sum + storage.size(other), text.length);
    const isKept = size <= KEPT_MAX && others.length < CHATS_MAX && storage.set(key, chat);
    if (isKept) return "";
    return "There is no room to keep this conversation in the browser. Export it, or delete others.";
  },

  remove(id) {
    this.all.delete(id);
    storage.remove(PREFIX + id);
  },

  /** Adds the conversations of an exported file, and gives them. */
  import(text) {
    if (text.length > IMPORT_MAX) throw new Error("The file is too long.");
    let file;
    try {
      file = JSON.parse(text);
    } catch {
      throw new Error("The file is no JSON.");
    }
    const list = Array.isArray(file?.conversations) ? file.conversations : [file];
    list.forEach((kept, i) => {
      const problem = chatProblem(kept);
      if (problem) throw new Error(`Conversation ${i + 1} of the file: ${problem}.`);
    });
    const added = [];
    for (const kept of list) {
      const { id: _, ...rest } = kept;
      const chat = new Chat(rest);
      const problem = this.save(chat);
      if (problem) {
        this.all.delete(chat.id);
        throw new Error(`${added.length} of ${list.length} were imported. There is no room for more in the browser.`);
      }
      added.push(chat);
    }
    return added;
  },

  export(list) {
    return JSON.stringify({ format: "teff-conversations", version: 1, conversations: list }, null, 1);
  },
};

/** What is wrong with a conversation that was read, in words; empty if nothing is. */
function chatProblem(kept) {
  const isText = (value) => value === undefined || typeof value === "string";
  if (typeof kept !== "object" || kept === null || !Array.isArray(kept.nodes)) return "it has no messages";
  if (![kept.id, kept.title, kept.system].every(isText)) return "its title or instructions are no text";
  if (![kept.created, kept.updated].every((n) => n === undefined || Number.isFinite(n))) return "its times are no numbers";
  if (kept.pick !== undefined && (typeof kept.pick !== "object" || kept.pick === null)) return "its choices are wrong";
  if (kept.nodes.length > 100_000) return "it has too many messages";
  for (const [i, node] of kept.nodes.entries()) {
    const isNode = typeof node === "object" && node !== null && ROLES.includes(node.role);
    if (!isNode || typeof node.text !== "string") return `message ${i + 1} has no role or text`;
    if (!Number.isInteger(node.parent) || node.parent < -1 || node.parent >= i) return `message ${i + 1} follows none`;
    if (![node.thought, node.model, node.end, node.call, node.trouble].every(isText)) return `message ${i + 1} is wrong`;
    const calls = node.calls ?? [];
    const isCall = (call) => [call?.id, call?.name, call?.args].every((part) => typeof part === "string");
    if (!Array.isArray(calls) || !calls.every(isCall)) return `message ${i + 1} has wrong calls`;
    if (node.stats !== undefined && (typeof node.stats !== "object" || node.stats === null)) return `message ${i + 1} is wrong`;
  }
  for (const [parent, i] of Object.entries(kept.pick ?? {})) {
    if (!Number.isInteger(i) || kept.nodes[i]?.parent !== Number(parent)) return "its choices are wrong";
  }
  return "";
}

/** Fields of the sampler: name, label, smallest, largest, step, what it does. */
const SAMPLERS = [
  ["temperature", "Temperature", 0, 5, 0.05, "Higher is more varied, 0 always takes the likeliest token"],
  ["top_p", "Top p", 0, 1, 0.01, "Keeps the likeliest tokens up to this sum of probabilities"],
  ["top_k", "Top k", 0, 100000, 1, "Keeps this many of the likeliest tokens; 0 keeps all"],
  ["min_p", "Min p", 0, 1, 0.01, "Drops tokens below this share of the likeliest one's probability"],
  ["repeat_penalty", "Repeat penalty", 0.1, 5, 0.05, "Above 1 makes what was said less likely"],
  ["max_tokens", "Max tokens", 1, 10000000, 1, "Longest answer; empty for as long as the context allows"],
  ["seed", "Seed", 0, 4294967295, 1, "The same seed gives the same answer"],
];

const settings = {
  theme: "auto",
  model: "",
  system: "",
  samplers: {},
  thinking: "",
  format: "text",
  schema: "",
  tools: "",

  load() {
    const kept = storage.get("teff.settings") ?? {};
    for (const name of ["theme", "model", "system", "thinking", "format", "schema", "tools"]) {
      if (typeof kept[name] === "string") this[name] = kept[name];
    }
    for (const [name] of SAMPLERS) {
      if (Number.isFinite(kept.samplers?.[name])) this.samplers[name] = kept.samplers[name];
    }
  },

  save() {
    storage.set("teff.settings", this);
  },
};
