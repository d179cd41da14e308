// Marks within a line of Markdown: code, emphasis, links, breaks. Text reaches the document as text only.

/** Address as a link may have it: http, https or mailto; null for all others. */
function safeAddress(text) {
  if (!/^(https?:\/\/|mailto:)/i.test(text)) return null;
  try {
    return new URL(text).href;
  } catch {
    return null;
  }
}

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", mdash: "—", ndash: "–", hellip: "…" };

/** Character of `&name;`, or null. */
function entity(name) {
  if (name[0] !== "#") return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : null;
  const code = /^#x/i.test(name) ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10);
  const fits = code > 31 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
  return fits ? String.fromCodePoint(code) : null;
}

/** Places of the brackets that close others, in one pass. */
function bracketPairs(text) {
  const pairs = new Map();
  const open = [];
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "[") open.push(i);
    else if (text[i] === "]" && open.length) pairs.set(open.pop(), i);
  }
  return pairs;
}

const SPECIAL = /[\\`![<&*_~\n]|https?:\/\//g;
const TARGET = /\(\s*(<[^<>\n]*>|[^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)(?:\s+(?:"[^"\n]*"|'[^'\n]*'))?\s*\)/y;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]*)>/iy;
const BREAK = /<br ?\/?>/iy;
const BARE = /https?:\/\/[^\s<>"`*]+/y;
const ENTITY = /&(#x[0-9a-f]{1,6}|#[0-9]{1,7}|[a-z]{2,8});/iy;

/** What a sticky expression finds at a place. */
function at(expression, text, place) {
  expression.lastIndex = place;
  return expression.exec(text);
}

/** Splits a text into texts, nodes, and runs of marks that may be emphasis. */
function inlineParts(text, isInLink) {
  const parts = [];
  const say = (string) => {
    if (string) parts.push({ text: string });
  };
  let brackets = null;
  let place = 0;
  while (place < text.length) {
    SPECIAL.lastIndex = place;
    const found = SPECIAL.exec(text);
    if (!found) break;
    say(text.slice(place, found.index));
    place = found.index;
    const c = text[place];
    let match;
    if (c === "\\") {
      if (text[place + 1] === "\n") parts.push({ node: document.createElement("br") });
      else if (/[!-/:-@[-`{-~]/.test(text[place + 1] ?? "")) say(text[place + 1]);
      else {
        say("\\");
        place -= 1;
      }
      place += 2;
    } else if (c === "\n") {
      parts.push({ node: document.createElement("br") });
      place += 1;
    } else if (c === "`") {
      place = codeSpan(text, place, parts, say);
    } else if (c === "[" || (c === "!" && text[place + 1] === "[")) {
      brackets ??= bracketPairs(text);
      place = link(text, place, brackets, isInLink, parts, say);
    } else if (c === "<" && (match = at(AUTOLINK, text, place)) && !isInLink) {
      parts.push({ node: anchor(match[1], match[1]) });
      place += match[0].length;
    } else if (c === "<" && (match = at(BREAK, text, place))) {
      parts.push({ node: document.createElement("br") });
      place += match[0].length;
    } else if (c === "&" && (match = at(ENTITY, text, place)) && entity(match[1]) !== null) {
      say(entity(match[1]));
      place += match[0].length;
    } else if (c === "h") {
      const address = bareAddress(at(BARE, text, place)?.[0] ?? "h");
      const isLink = !isInLink && address.length > 8;
      if (isLink) parts.push({ node: anchor(address, address) });
      else say(address);
      place += address.length;
    } else if (c === "*" || c === "_" || c === "~") {
      let end = place + 1;
      while (text[end] === c) end++;
      parts.push(run(text, place, end));
      place = end;
    } else {
      say(c);
      place += 1;
    }
  }
  say(text.slice(place));
  return parts;
}

/** A bare address without the punctuation of the sentence around it. */
function bareAddress(text) {
  let end = text.length;
  for (; end > 0; end--) {
    const last = text[end - 1];
    const isStray = last === ")" && text.slice(0, end).split(")").length > text.slice(0, end).split("(").length;
    if (!isStray && !".,;:!?'_~]".includes(last)) break;
  }
  return text.slice(0, end) || text[0];
}

/** A link, or the text alone where the address is not safe. */
function anchor(address, label) {
  const href = safeAddress(address);
  if (href === null) return document.createTextNode(typeof label === "string" ? label : address);
  const a = document.createElement("a");
  a.href = href;
  a.target = "_blank";
  a.rel = "noopener noreferrer nofollow";
  a.title = href;
  a.append(label);
  return a;
}

function codeSpan(text, place, parts, say) {
  let start = place;
  while (text[start] === "`") start++;
  const n = start - place;
  for (let end = start; (end = text.indexOf("`", end)) >= 0; ) {
    let after = end;
    while (text[after] === "`") after++;
    if (after - end === n) {
      const code = document.createElement("code");
      const inner = text.slice(start, end).replaceAll("\n", " ");
      code.textContent = /^ .*[^ ].* $/.test(inner) ? inner.slice(1, -1) : inner;
      parts.push({ node: code });
      return after;
    }
    end = after;
  }
  say("`".repeat(n));
  return start;
}

function link(text, place, brackets, isInLink, parts, say) {
  const open = text[place] === "!" ? place + 1 : place;
  const close = brackets.get(open);
  const target = close === undefined ? null : at(TARGET, text, close + 1);
  if (!target) {
    say(text.slice(place, open + 1));
    return open + 1;
  }
  const label = text.slice(open + 1, close);
  const address = target[1].replace(/^<|>$/g, "");
  const isImage = open > place;
  if (isInLink || safeAddress(address) === null) {
    // What cannot be followed is told, not hidden.
    parts.push({ node: inline(label, true) });
    if (address) say(` (${address})`);
  } else if (isImage) {
    // Pictures would be fetched from elsewhere: they are links.
    parts.push({ node: anchor(address, label || address) });
  } else {
    parts.push({ node: anchor(address, label ? inline(label, true) : address) });
  }
  return close + 1 + target[0].length;
}

/** A run of equal marks, and whether it may open or close emphasis. */
function run(text, start, end) {
  const before = start > 0 ? text[start - 1] : " ";
  const after = end < text.length ? text[end] : " ";
  const isSpace = (c) => /\s/.test(c);
  const isPunctuation = (c) => /[\p{P}\p{S}]/u.test(c);
  const left = !isSpace(after) && (!isPunctuation(after) || isSpace(before) || isPunctuation(before));
  const right = !isSpace(before) && (!isPunctuation(before) || isSpace(after) || isPunctuation(after));
  const mark = text[start];
  const isWordy = mark === "_";
  return {
    mark,
    n: end - start,
    size: end - start,
    opens: left && (!isWordy || !right || isPunctuation(before)),
    closes: right && (!isWordy || !left || isPunctuation(after)),
    begun: [],
    ended: [],
  };
}

/** Pairs the runs, as CommonMark does. */
function pairRuns(parts) {
  const runs = parts.filter((part) => part.mark);
  const stack = [];
  for (const closer of runs) {
    let bottom = 0;
    while (closer.closes && closer.n > 0) {
      let i = stack.length - 1;
      for (; i >= bottom; i--) {
        const opener = stack[i];
        const isOdd = (opener.closes || closer.opens) && (opener.size + closer.size) % 3 === 0;
        const fits = opener.mark === closer.mark && !(isOdd && (opener.size % 3 || closer.size % 3));
        if (fits && (opener.mark !== "~" || (opener.n === closer.n && opener.n <= 2))) break;
        // A closer that looks far and wide for its opener would cost its square.
        if (stack.length - i > 64) i = bottom;
      }
      if (i < bottom) break;
      const opener = stack[i];
      const used = opener.n >= 2 && closer.n >= 2 ? 2 : 1;
      const tag = closer.mark === "~" ? "del" : used === 2 ? "strong" : "em";
      opener.begun.push(tag);
      closer.ended.push(tag);
      opener.n -= used;
      closer.n -= used;
      stack.length = opener.n > 0 ? i + 1 : i;
    }
    if (closer.opens && closer.n > 0) stack.push(closer);
  }
}

/** A text with its marks, as nodes. */
function inline(text, isInLink = false) {
  const parts = inlineParts(text, isInLink);
  pairRuns(parts);
  const root = document.createDocumentFragment();
  const open = [root];
  const top = () => open[open.length - 1];
  for (const part of parts) {
    if (part.text !== undefined) top().append(part.text);
    else if (part.node) top().append(part.node);
    else {
      for (const _ of part.ended) open.pop();
      if (part.n > 0) top().append(part.mark.repeat(part.n));
      for (const tag of part.begun.reverse()) {
        const element = document.createElement(tag);
        top().append(element);
        open.push(element);
      }
    }
  }
  root.normalize();
  return root;
}
