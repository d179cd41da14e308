// The page: what is shown, what is asked, what keys and buttons do.

const $ = (id) => document.getElementById(id);
const isNarrow = () => matchMedia("(max-width: 860px)").matches;

/** The conversation that is shown, its messages' views, and the answer that is being written, if any. */
const shown = { chat: null, views: [] };
let running = null;
let speaker = null;
/** The message in the box replaces this one, if it is set. */
let edited = null;
let models = [];

// ---------------------------------------------------------------- what is shown

function openChat(chat) {
  shown.chat = chat;
  storage.open = chat.id;
  edited = null;
  drawMessages();
  drawChats();
  notice("");
  $("log").scrollTop = $("log").scrollHeight;
}

function drawMessages() {
  const { chat } = shown;
  const path = chat.path();
  shown.views = path.map((i) => new MessageView(chat, i));
  for (const view of shown.views) {
    const isRunning = running?.node === view.node;
    if (isRunning) running.view = view;
    view.update(isRunning);
  }
  finishViews();
  $("messages").replaceChildren(...shown.views.map((view) => view.el));
  $("empty").hidden = path.length > 0;
  drawTitle();
}

function finishViews() {
  const { views } = shown;
  views.forEach((view, i) => view.finish(running?.node === view.node, i === views.length - 1));
}

function drawTitle() {
  const title = shown.chat.title || "New chat";
  $("title").textContent = title;
  document.title = shown.chat.title ? `${title} · teff` : "teff";
}

function drawChats() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const list = chats.sorted().filter((chat) => chat.hasWords(words));
  $("chats").replaceChildren(...list.map(chatItem));
  $("none").hidden = list.length > 0;
  $("none").textContent = words.length ? "Nothing found." : "Conversations stay in this browser.";
  const size = chats.size();
  const share = Math.round((size / KEPT_MAX) * 100);
  $("room").textContent = share >= 50 ? `${share} % of the room used` : "";
}

function chatItem(chat) {
  const open = element("button", "chat", chat.title || "Untitled");
  open.type = "button";
  open.dataset.act = "open";
  open.title = chat.title;
  if (chat === shown.chat) open.setAttribute("aria-current", "page");
  const rename = iconButton("edit", `Rename “${chat.title}”`, "rename");
  const remove = iconButton("remove", `Delete “${chat.title}”`, "remove");
  const item = element("li", "", open, rename, remove);
  item.dataset.id = chat.id;
  return item;
}

/** Says above the box what is wrong, or what is going on. */
function notice(text, isWrong = true) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
  $("notice").classList.toggle("calm", !isWrong);
}

let toastTimer = 0;
/** A short word that goes away by itself; screen readers hear it as a status. */
function toast(text) {
  $("status").textContent = text;
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => {
    $("toast").hidden = true;
    $("status").textContent = "";
  }, 2500);
}

const isAtEnd = () => {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 60;
};

function toEnd() {
  const log = $("log");
  log.scrollTop = log.scrollHeight;
}

function drawSend() {
  const isRunning = running !== null;
  $("send").setAttribute("aria-label", isRunning ? "Stop" : "Send");
  $("send").title = isRunning ? "Stop (Escape)" : "Send (Enter)";
  $("send-icon").setAttribute("href", isRunning ? "#i-stop" : "#i-send");
  $("send").disabled = !isRunning && !$("input").value.trim();
}

// ---------------------------------------------------------------- the box

/** Sends what is in the box. */
function send(text) {
  const words = text.trim();
  if (running || !words) return;
  const { chat } = shown;
  const path = chat.path();
  const parent = edited !== null ? chat.nodes[edited].parent : (path.at(-1) ?? -1);
  const index = chat.add(parent, { role: "user", text: words });
  edited = null;
  setInput("");
  answer(chat, index);
}

function setInput(text) {
  const input = $("input");
  input.value = text;
  $("composer").classList.toggle("editing", edited !== null);
  grow();
  drawSend();
}

/** Makes the box as high as what is in it. */
function grow() {
  const input = $("input");
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight, innerHeight * 0.4)}px`;
}

// ---------------------------------------------------------------- what messages offer

const viewOf = (target) => shown.views.find((view) => view.el === target.closest(".message"));
const lastOf = (role) => shown.views.findLast((view) => view.node.role === role);

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    toast("The browser does not let this page copy.");
  }
}

function edit(view) {
  if (!view || running) return;
  edited = view.index;
  setInput(view.node.text);
  $("input").focus();
  notice("Sending begins another version of that message. Escape leaves it as it was.", false);
}

function leaveEdit() {
  edited = null;
  setInput("");
  notice("");
}

function regenerate(view) {
  if (!view || running) return;
  answer(shown.chat, view.node.parent);
}

function otherVersion(view, step) {
  const { chat } = shown;
  if (running?.chat === chat) return;
  const { parent } = view.node;
  const siblings = chat.following(parent);
  const next = siblings[siblings.indexOf(view.index) + step];
  if (next === undefined) return;
  chat.pick[parent] = next;
  chats.save(chat);
  drawMessages();
  const drawn = shown.views.find((other) => other.index === next);
  drawn?.el.querySelector(`[data-act="${step < 0 ? "earlier" : "later"}"]:not(:disabled), .versions button:not(:disabled)`)?.focus();
}

function sendResults(view) {
  const { chat } = shown;
  if (running) return;
  let parent = view.index;
  view.node.calls.forEach((call, i) => {
    const text = $(`result-${view.index}-${i}`).value;
    parent = chat.add(parent, { role: "tool", call: call.id, text });
  });
  answer(chat, parent);
}

// ---------------------------------------------------------------- conversations

function newChat() {
  openChat(new Chat({ system: settings.system }));
  closeSide();
  $("input").focus();
}

function rename(item, chat) {
  const field = element("input");
  field.value = chat.title;
  field.maxLength = 200;
  field.setAttribute("aria-label", "New name");
  item.replaceChildren(field);
  field.focus();
  field.select();
  let isOver = false;
  const end = (isKept) => {
    if (isOver) return;
    isOver = true;
    if (isKept && field.value.trim()) {
      chat.title = field.value.trim();
      chat.isNamed = true;
      notice(chats.save(chat));
    }
    drawChats();
    drawTitle();
    $("chats").querySelector(`[data-id="${CSS.escape(chat.id)}"] .chat`)?.focus();
  };
  field.addEventListener("blur", () => end(true));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") {
      event.stopPropagation();
      end(false);
    }
  });
}

async function removeChat(chat) {
  $("confirm-what").textContent = `“${chat.title}” is deleted from this browser for good.`;
  if ((await ask("confirm")) !== "yes") return;
  if (running?.chat === chat) stop();
  chats.remove(chat.id);
  if (chat === shown.chat) newChat();
  drawChats();
  toast("Deleted");
}

function save(name, text, type) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function share() {
  const { chat } = shown;
  const form = await ask("share");
  const name = (chat.title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
  if (form === "markdown") save(`${name || "chat"}.md`, chat.markdown(), "text/markdown");
  if (form === "json") save(`${name || "chat"}.json`, chats.export([chat]), "application/json");
}

async function importFile(file) {
  try {
    const added = chats.import(await file.text());
    toast(`${plural(added.length, "conversation")} imported`);
    if (added.length) openChat(added[0]);
  } catch (error) {
    notice(error.message);
  }
  drawChats();
}

// ---------------------------------------------------------------- dialogs and settings

/** Shows a dialog; the value by which it was closed. */
function ask(id) {
  const dialog = $(id);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

async function askKey(why = "") {
  if ($("key").open) return false;
  if (why) $("key-why").textContent = `${why} It is sent to this server only.`;
  $("key-field").value = api.key;
  const isGiven = (await ask("key")) === "ok";
  if (!isGiven) return false;
  api.setKey($("key-field").value.trim(), $("key-kept").checked);
  await loadModels();
  return true;
}

function openSettings() {
  $("system").value = shown.chat.system;
  $("system-default").checked = settings.system !== "" && settings.system === shown.chat.system;
  for (const [name] of SAMPLERS) $(`sampler-${name}`).value = settings.samplers[name] ?? "";
  for (const name of ["thinking", "format", "schema", "tools"]) $(name).value = settings[name];
  checkSettings();
  ask("settings");
}

/** Takes the fields' values; wrong ones are told beside them. */
function readSettings() {
  const { chat } = shown;
  chat.system = $("system").value;
  if ($("system-default").checked) settings.system = chat.system;
  else if (settings.system === chat.system) settings.system = "";
  for (const [name, , min, max, step] of SAMPLERS) {
    const field = $(`sampler-${name}`);
    const value = field.valueAsNumber;
    const isRight = value >= min && value <= max && (step !== 1 || Number.isInteger(value));
    field.setAttribute("aria-invalid", String(field.value !== "" && !isRight));
    if (isRight) settings.samplers[name] = value;
    else delete settings.samplers[name];
  }
  for (const name of ["thinking", "format", "schema", "tools"]) settings[name] = $(name).value;
  checkSettings();
  settings.save();
  if (chat.nodes.length) notice(chats.save(chat));
}

function checkSettings() {
  $("schema-part").hidden = $("format").value !== "schema";
  for (const [name, isRight, need] of [
    ["schema", (value) => typeof value === "object" && value !== null, "A schema is a JSON object."],
    ["tools", Array.isArray, "Tools are a JSON list."],
  ]) {
    const text = $(name).value.trim();
    let problem = "";
    try {
      if (text && !isRight(JSON.parse(text))) problem = need;
    } catch (error) {
      problem = error.message;
    }
    $(`${name}-problem`).textContent = problem;
    $(name).setAttribute("aria-invalid", String(problem !== ""));
  }
}

function makeSamplers() {
  for (const [name, label, min, max, step, about] of SAMPLERS) {
    const field = element("input");
    Object.assign(field, { type: "number", id: `sampler-${name}`, min, max, step: step === 1 ? 1 : "any", title: about });
    field.inputMode = "decimal";
    const text = element("label", "", label);
    text.htmlFor = field.id;
    const more = element("span", "faint", about);
    more.id = `about-${name}`;
    field.setAttribute("aria-describedby", more.id);
    $("samplers").append(element("div", "sampler", text, field, more));
  }
}

const THEMES = ["auto", "light", "dark"];
function showTheme() {
  document.documentElement.dataset.theme = settings.theme;
  const button = $("theme");
  if (!button) return;
  const label = `Colours: ${settings.theme === "auto" ? "as the system" : settings.theme}`;
  button.setAttribute("aria-label", label);
  button.title = `${label} (Alt+T)`;
}

function nextTheme() {
  settings.theme = THEMES[(THEMES.indexOf(settings.theme) + 1) % THEMES.length];
  settings.save();
  showTheme();
  toast($("theme").getAttribute("aria-label"));
}

async function loadModels() {
  try {
    models = (await api.json("v1/models")).data ?? [];
  } catch (error) {
    models = [];
    $("about").textContent = error.message;
    if (error.status === 401) await askKey("The server wants an API key.");
    else if (!error.status) setTimeout(loadModels, 3000);
    return;
  }
  if (!models.length) {
    $("about").textContent = "The model is being loaded…";
    setTimeout(loadModels, 2000);
  }
  if (!models.some(({ id }) => id === settings.model)) settings.model = models[0]?.id ?? "";
  drawModels();
  showDefaults();
}

function drawModels() {
  const options = models.map(({ id }) => {
    const option = element("option", "", id);
    option.value = id;
    option.selected = id === settings.model;
    return option;
  });
  $("model").replaceChildren(...options);
  $("model").disabled = !models.length;
  const model = models.find(({ id }) => id === settings.model);
  if (!model) return;
  const context = model.max_model_len ? `, ${number(model.max_model_len)} tokens of context` : "";
  $("about").textContent = `${model.id}${context}`;
}

/** Shows the server's defaults in the empty fields, where it tells them. */
async function showDefaults() {
  let params = {};
  try {
    params = (await api.json("props")).default_generation_settings?.params ?? {};
  } catch {
    // Other servers do not tell; the fields are empty then.
  }
  for (const [name] of SAMPLERS) {
    const value = params[name];
    $(`sampler-${name}`).placeholder = Number.isFinite(value) ? String(Math.round(value * 1000) / 1000) : "default";
  }
}
