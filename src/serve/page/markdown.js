// Markdown as it comes: lines that are whole are written once; only the block that is still open changes.

const FENCE = /^ *(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const UNDERLINE = /^ {0,3}(={2,}|-{3,})[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const MARKER = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const DELIMITERS = /^ *\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *$/;
const TASK = /^\[([ xX])\] +/;
/** Containers within one another. */
const DEPTH_MAX = 24;

/** A node of that tag, class and content. */
function element(tag, name = "", ...content) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...content);
  return made;
}

/** The cells of a table's row. */
function cells(line) {
  const row = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  const found = [];
  let cell = "";
  let isCode = false;
  for (let i = 0; i < row.length; i++) {
    if (row[i] === "\\" && row[i + 1] === "|") {
      cell += "|";
      i++;
    } else if (row[i] === "|" && !isCode) {
      found.push(cell.trim());
      cell = "";
    } else {
      if (row[i] === "`") isCode = !isCode && row.indexOf("`", i + 1) >= 0;
      cell += row[i];
    }
  }
  found.push(cell.trim());
  return found;
}

/** A document that is written to in pieces; what it shows depends on their sum alone. */
class Markdown {
  constructor(root) {
    root.replaceChildren();
    // From the outside in: the document, quotes, and items of lists.
    this.open = [{ kind: "document", el: root }];
    this.leaf = null;
    this.rest = "";
    this.before = null;
  }

  /** Adds a text. */
  push(text) {
    this.undo();
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop();
    for (const line of lines) this.line(line);
    // The last line may go on in a way that changes what it is, so it is written to be taken back.
    if (this.rest) {
      this.remember();
      this.line(this.rest);
    }
    this.render();
  }

  remember() {
    const count = ({ el, list }) => [el.childNodes.length, list?.childNodes.length];
    const { leaf } = this;
    this.before = {
      open: this.open.slice(),
      counts: this.open.map(count),
      leaf: leaf && { ...leaf },
      size: leaf?.kind === "code" ? leaf.text.length : leaf?.rows?.childNodes.length,
    };
  }

  undo() {
    const { before } = this;
    if (!before) return;
    this.before = null;
    this.open = before.open;
    const trim = (node, n) => {
      while (node && node.childNodes.length > n) node.lastChild.remove();
    };
    before.open.forEach(({ el, list }, i) => {
      trim(el, before.counts[i][0]);
      trim(list, before.counts[i][1]);
    });
    const leaf = (this.leaf = before.leaf);
    if (leaf?.kind === "code") leaf.text.deleteData(before.size, leaf.text.length);
    if (leaf?.kind === "table") trim(leaf.rows, before.size);
    if (leaf?.kind === "text") {
      leaf.isNew = true;
      if (leaf.el.parentNode !== this.top()) {
        // A heading or table stands in its place.
        trim(this.top(), before.counts.at(-1)[0] - 1);
        this.top().append(leaf.el);
      }
    }
  }

  top() {
    return this.open[this.open.length - 1].el;
  }

  /** Writes what has changed of an open paragraph. */
  render() {
    const { leaf } = this;
    if (leaf?.kind !== "text" || !leaf.isNew) return;
    leaf.el.replaceChildren(inline(leaf.source.replace(/[ \t]+$/, "")));
    leaf.isNew = false;
  }

  /** Ends the open leaf, and containers from a depth on. */
  close(depth) {
    this.render();
    this.leaf = null;
    this.open.length = Math.min(depth, this.open.length);
  }

  line(raw) {
    let rest = raw.replace(/\r$/, "").replace(/^[ \t]+/, (blanks) => blanks.replaceAll("\t", "    "));
    const isBlank = !rest.trim();
    let depth = 1;
    for (; depth < this.open.length; depth++) {
      const taken = this.continued(this.open[depth], rest, isBlank);
      if (taken === null) break;
      rest = rest.slice(taken);
    }
    const isInside = depth === this.open.length;
    if (this.leaf?.kind === "code" && isInside) return this.code(rest);
    if (isBlank) return this.close(depth);
    this.block(rest, depth, isInside);
  }

  /** Characters of a line that belong to a container; null if it ends. */
  continued(container, rest, isBlank) {
    if (container.kind === "quote") return QUOTE.exec(rest)?.[0].length ?? null;
    if (isBlank) return 0;
    const indent = /^ */.exec(rest)[0].length;
    if (indent >= container.indent) return container.indent;
    // Models indent less than they should: code goes on, and lists within lists begin, all the same.
    const isNested = MARKER.test(rest) && indent >= container.at + 2;
    return this.leaf?.kind === "code" || isNested ? indent : null;
  }

  code(rest) {
    const { leaf } = this;
    const fence = FENCE.exec(rest);
    if (fence && fence[1][0] === leaf.fence[0] && fence[1].length >= leaf.fence.length && !fence[2].trim()) {
      this.leaf = null;
      return;
    }
    const indent = Math.min(/^ */.exec(rest)[0].length, leaf.indent);
    const text = rest.slice(indent);
    leaf.text.appendData(leaf.isEmpty ? text : `\n${text}`);
    leaf.isEmpty = false;
  }

  block(line, depth, isInside) {
    let rest = line;
    // An item of a list that ends here goes on as its neighbour.
    let ended = this.open[depth];
    let isFresh = isInside;
    const endOthers = () => {
      this.close(depth);
      isFresh = false;
    };
    while (this.open.length < DEPTH_MAX || depth < this.open.length) {
      const quote = QUOTE.exec(rest);
      if (quote) {
        endOthers();
        this.enter({ kind: "quote", el: element("blockquote") });
        rest = rest.slice(quote[0].length);
        ended = null;
      } else {
        const marker = RULE.test(rest) ? null : MARKER.exec(rest);
        if (!marker || !this.mayBegin(marker, rest, isFresh)) break;
        endOthers();
        rest = rest.slice(this.item(marker, ended, rest));
        ended = null;
      }
      depth = this.open.length;
      if (!rest.trim()) return;
    }
    this.inner(rest, depth, isInside && isFresh, isFresh || !isInside);
  }

  enter(container) {
    this.top().append(container.el);
    this.open.push(container);
  }

  /** Whether a marker begins an item here, in the middle of a paragraph too. */
  mayBegin(marker, rest, isFresh) {
    if (!isFresh || this.leaf?.kind !== "text") return true;
    return /^([-*+]|1[.)])$/.test(marker[2]) && rest.length > marker[0].length;
  }

  /** Begins an item; the length of its mark. */
  item(marker, ended, rest) {
    const [whole, blanks, mark, gap] = marker;
    const kind = mark.slice(-1);
    const isOrdered = mark.length > 1;
    let list = ended?.kind === "item" && ended.mark === kind ? ended.list : null;
    if (!list) {
      list = element(isOrdered ? "ol" : "ul");
      if (isOrdered && mark !== `1${kind}`) list.start = parseInt(mark, 10);
      this.top().append(list);
    }
    const el = element("li");
    list.append(el);
    const width = gap.length > 4 || rest.length === whole.length ? 1 : gap.length;
    const taken = blanks.length + mark.length + width;
    this.open.push({ kind: "item", el, list, mark: kind, at: blanks.length, indent: taken });
    const task = TASK.exec(rest.slice(taken));
    if (!task) return Math.min(taken, rest.length);
    const box = element("span", "task");
    const isDone = task[1] !== " ";
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", isDone ? "done" : "to do");
    box.textContent = isDone ? "☑" : "☐";
    el.append(box);
    return taken + task[0].length;
  }

  /** A line without its containers. */
  inner(rest, depth, isSameText, mayBeLazy) {
    const { leaf } = this;
    let found;
    if (leaf?.kind === "table" && isSameText && rest.includes("|")) return this.row(rest);
    if (leaf?.kind === "text" && isSameText && (found = UNDERLINE.exec(rest))) {
      leaf.el.remove();
      const heading = element(found[1][0] === "=" ? "h3" : "h4");
      this.top().append(heading);
      heading.append(inline(leaf.source.trim()));
      this.leaf = null;
    } else if ((found = FENCE.exec(rest)) && !(found[1][0] === "`" && found[2].includes("`"))) {
      this.close(depth);
      this.fence(found, /^ */.exec(rest)[0].length);
    } else if ((found = HEADING.exec(rest))) {
      this.close(depth);
      this.top().append(element(`h${Math.min(6, found[1].length + 2)}`, "", inline(found[2] ?? "")));
    } else if (RULE.test(rest)) {
      this.close(depth);
      this.top().append(element("hr"));
    } else if (leaf?.kind === "text" && isSameText && rest.includes("|") && DELIMITERS.test(rest)) {
      this.table(rest);
    } else if (leaf?.kind === "text" && mayBeLazy) {
      leaf.source += `\n${rest.trimStart()}`;
      leaf.isNew = true;
    } else {
      this.close(depth);
      const el = element("p");
      this.top().append(el);
      this.leaf = { kind: "text", el, source: rest.trimStart(), isNew: true };
    }
  }

  fence([, fence, info], indent) {
    const language = info.trim().split(/\s/)[0].slice(0, 32);
    const text = document.createTextNode("");
    this.top().append(codeBlock(language, text));
    this.leaf = { kind: "code", text, fence, indent, isEmpty: true };
  }

  /** Makes the last line of the open paragraph the head of a table, if it has as many cells. */
  table(rest) {
    const { leaf } = this;
    const lines = leaf.source.split("\n");
    const head = cells(lines.pop());
    const marks = cells(rest);
    if (head.length !== marks.length) {
      leaf.source += `\n${rest.trimStart()}`;
      leaf.isNew = true;
      return;
    }
    const align = (mark) => (/^:.*:$/.test(mark) ? "center" : mark.endsWith(":") ? "right" : "");
    if (lines.length) {
      leaf.source = lines.join("\n");
      leaf.isNew = true;
      this.render();
    } else leaf.el.remove();
    const rows = element("tbody");
    const aligns = marks.map(align);
    const top = element("thead", "", tableRow(head, aligns, "th"));
    const scroll = element("div", "table", element("table", "", top, rows));
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "Table");
    this.top().append(scroll);
    this.leaf = { kind: "table", rows, aligns };
  }

  row(rest) {
    this.leaf.rows.append(tableRow(cells(rest), this.leaf.aligns, "td"));
  }
}

/** A row of as many cells as the table has columns. */
function tableRow(texts, aligns, tag) {
  const row = element("tr");
  aligns.forEach((align, i) => row.append(element(tag, align, inline(texts[i] ?? ""))));
  return row;
}

/** A block of code with its language and a button that copies it. */
function codeBlock(language, text) {
  const button = element("button", "quiet copy", "Copy");
  button.type = "button";
  button.dataset.act = "copy-code";
  button.setAttribute("aria-label", language ? `Copy the ${language} code` : "Copy the code");
  const head = element("div", "code-head", element("span", "", language || "code"), button);
  const pre = element("pre", "", element("code", "", text));
  pre.tabIndex = 0;
  return element("div", "code", head, pre);
}
