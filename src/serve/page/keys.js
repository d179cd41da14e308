// Buttons, keys, and the start of the page.

/** What buttons do, by their `data-act`. */
const ACTS = {
  copy: (target) => copy(viewOf(target).node.text),
  "copy-code": (target) => copy(target.closest(".code").querySelector("pre").textContent),
  edit: (target) => edit(viewOf(target)),
  again: (target) => regenerate(viewOf(target)),
  continue: (target) => answer(shown.chat, viewOf(target).index, true),
  earlier: (target) => otherVersion(viewOf(target), -1),
  later: (target) => otherVersion(viewOf(target), 1),
  "send-results": (target) => sendResults(viewOf(target)),
  idea: (target) => send(target.textContent),
  open: (target) => {
    openChat(chatOf(target));
    closeSide();
    $("input").focus();
  },
  rename: (target) => rename(target.closest("li"), chatOf(target)),
  remove: (target) => removeChat(chatOf(target)),
  share,
  import: () => $("file").click(),
  "export-all": () => save("conversations.json", chats.export(chats.sorted()), "application/json"),
  theme: nextTheme,
  help: () => ask("help"),
  settings: openSettings,
  "reset-samplers": () => {
    for (const [name] of SAMPLERS) $(`sampler-${name}`).value = "";
    readSettings();
  },
  key: () => askKey(),
  close: (target) => target.closest("dialog").close(),
};

const chatOf = (target) => chats.all.get(target.closest("li").dataset.id);

/** What keys do beside Alt, by their place on the keyboard. */
const SHORTCUTS = {
  KeyI: () => $("input").focus(),
  KeyN: newChat,
  KeyR: () => regenerate(lastOf("assistant")),
  KeyE: () => edit(lastOf("user")),
  KeyC: () => copy(lastOf("assistant")?.node.text ?? ""),
  KeyL: () => toggleSide(),
  KeyM: () => $("model").focus(),
  KeyO: openSettings,
  KeyT: nextTheme,
  KeyK: () => ask("help"),
};

function onKey(event) {
  const isOpen = document.querySelector("dialog[open]") !== null;
  if (event.key === "Escape" && !isOpen) {
    if (isNarrow() && document.body.classList.contains("with-side")) closeSide();
    else if (running) stop();
    else if (edited !== null) leaveEdit();
    else $("input").focus();
    return;
  }
  const isPlainAlt = event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey;
  const act = isPlainAlt && !isOpen ? SHORTCUTS[event.code] : null;
  if (!act) return;
  event.preventDefault();
  act();
}

function onInputKey(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send($("input").value);
}

function showSide(isShown) {
  document.body.classList.toggle("with-side", isShown);
  const covers = isShown && isNarrow();
  $("menu").setAttribute("aria-expanded", String(isShown));
  $("side").inert = !isShown;
  $("page").inert = covers;
  $("shade").hidden = !covers;
}

function toggleSide() {
  const isShown = !document.body.classList.contains("with-side");
  showSide(isShown);
  if (isShown) $("search").focus();
  else $("menu").focus();
}

function closeSide() {
  if (!isNarrow() || !document.body.classList.contains("with-side")) return;
  showSide(false);
  $("menu").focus();
}

/** Takes over what another tab has kept. */
function onStorage({ key }) {
  if (key === "teff.settings") {
    settings.load();
    showTheme();
  }
  if (!key?.startsWith(PREFIX)) return;
  const id = key.slice(PREFIX.length);
  if (running?.chat.id === id) return;
  const kept = storage.get(key);
  if (kept === null || chatProblem(kept)) chats.all.delete(id);
  else chats.all.set(id, new Chat(kept));
  const other = chats.all.get(id);
  if (shown.chat.id === id && other) openChat(other);
  else drawChats();
}

function listen() {
  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-act]");
    if (target) ACTS[target.dataset.act](target);
  });
  document.addEventListener("keydown", onKey);
  $("input").addEventListener("keydown", onInputKey);
  $("input").addEventListener("input", () => {
    grow();
    drawSend();
  });
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) stop();
    else send($("input").value);
  });
  $("new").addEventListener("click", newChat);
  $("menu").addEventListener("click", toggleSide);
  $("shade").addEventListener("click", closeSide);
  $("search").addEventListener("input", drawChats);
  $("model").addEventListener("change", () => {
    settings.model = $("model").value;
    settings.save();
    drawModels();
  });
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    if (file) importFile(file);
    $("file").value = "";
  });
  $("settings").addEventListener("input", readSettings);
  $("log").addEventListener("scroll", () => {
    $("down").hidden = isAtEnd();
  });
  $("down").addEventListener("click", toEnd);
  addEventListener("storage", onStorage);
  addEventListener("pagehide", () => {
    if (!running) return;
    running.isLeft = true;
    chats.save(running.chat);
  });
  matchMedia("(max-width: 860px)").addEventListener("change", () => showSide(!isNarrow()));
}

function start() {
  speaker = new Speaker($("live"));
  makeSamplers();
  listen();
  chats.load();
  showTheme();
  showSide(!isNarrow());
  openChat(chats.all.get(storage.open) ?? new Chat({ system: settings.system }));
  drawSend();
  loadModels();
  if (!isNarrow()) $("input").focus();
}

settings.load();
api.loadKey();
showTheme();
document.addEventListener("DOMContentLoaded", start);
