#!/usr/bin/env python3
"""The chat page of `teff serve` in a headless Chromium, as people use it: with a model, and with answers made to
hurt it. Takes pictures, to be looked at.

    scripts/check_page.py target/release/teff smollm2:135m [--shots FOLDER] [--sources] [--only NAME]

Needs python3 with venv and pip, and Chromium (Debian: apt-get install chromium; elsewhere `playwright install
chromium`). Playwright goes to a folder of its own, target/check_page. `--sources` takes the page of src/serve/page
instead of the program's, which needs no build.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / "target/check_page"

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    python = VENV / "bin/python"
    if pathlib.Path(sys.prefix) == VENV:
        raise
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "playwright"], check=True)
    os.execv(python, [python, __file__, *sys.argv[1:]])

sys.path.insert(0, str(ROOT / "scripts/page"))
import fake_server

PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 800}
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Fixture:
    """The browser, the servers, and pages that must not complain."""

    def __init__(self, browser, teff, fake, url, shots):
        self.browser, self.teff, self.fake, self.url, self.shots = browser, teff, fake, url, shots
        self.contexts = []

    def page(self, url=None, size=DESKTOP, scheme="light", **options):
        context = self.browser.new_context(viewport=size, color_scheme=scheme, **options)
        self.contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(f"error: {error}"))
        page.on("console", lambda message: self.listen(page, message))
        home = url or self.url
        page.on("request", lambda request: page.problems.append(f"fetches {request.url}")
                if not request.url.startswith((home, "data:", "blob:")) else None)
        page.goto(home)
        expect(page.locator("#model option").first).to_be_attached()
        return page

    def listen(self, page, message):
        # Refusals of the server are part of the checks.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            page.problems.append(f"console: {message.text}")

    def shot(self, page, name):
        if self.shots:
            page.screenshot(path=self.shots / f"{name}.png")

    def close(self):
        problems = [problem for context in self.contexts for page in context.pages for problem in page.problems]
        for context in self.contexts:
            context.close()
        self.contexts.clear()
        assert not problems, problems


def send(page, text, waits=True):
    page.fill("#input", text)
    page.keyboard.press("Enter")
    if waits:
        idle(page)


def limit(page, n):
    """Answers of few tokens: small models do not come to an end by themselves."""
    page.keyboard.press("Alt+o")
    page.get_by_label("Max tokens").fill(str(n))
    page.keyboard.press("Escape")


def idle(page):
    expect(page.locator("#send")).to_have_attribute("aria-label", "Send", timeout=120_000)


def last(page, part=".body"):
    return page.locator(f".message.assistant {part}").last


def fits(page):
    """Nothing makes the page wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# ---------------------------------------------------------------- with a model


@check
def a_model_answers(f):
    page = f.page(f.teff)
    expect(page.locator("#about")).to_contain_text("tokens of context")
    limit(page, 24)
    send(page, "What is the capital of France?")
    expect(last(page)).not_to_be_empty()
    expect(last(page, ".stats")).to_contain_text("tokens/s")
    expect(last(page, ".stats")).to_contain_text("first token after")
    send(page, "And of Italy?")
    expect(last(page, ".stats")).to_contain_text("of them cached")
    f.shot(page, "model")


@check
def an_answer_is_stopped_and_regenerated(f):
    page = f.page(f.teff)
    send(page, "Write a very long story about a lighthouse, at least forty chapters.", waits=False)
    expect(last(page)).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    f.shot(page, "streaming")
    page.keyboard.press("Escape")
    idle(page)
    expect(last(page, ".stats")).to_contain_text("Stopped.")
    assert last(page).inner_text().strip()
    # The server has noticed.
    expect(page.locator("#send")).to_be_disabled()
    page.wait_for_timeout(500)
    text = urllib.request.urlopen(f"{f.real}/metrics").read().decode()
    assert re.search(r"^vllm:num_requests_running\{.*\} 0$", text, re.M), text
    limit(page, 12)
    page.keyboard.press("Alt+r")
    idle(page)
    expect(last(page, ".versions")).to_contain_text("2/2")
    expect(last(page, ".stats")).to_contain_text("longest length")
    last(page, '[data-act="continue"]').click()
    idle(page)
    assert len(page.locator(".message").all()) == 2
    last(page, '[data-act="earlier"]').click()
    expect(last(page, ".stats")).to_contain_text("Stopped.")
    expect(last(page, ".versions")).to_contain_text("1/2")


@check
def history_is_kept(f):
    page = f.page(f.teff)
    limit(page, 8)
    send(page, "A question about otters")
    answer = last(page).inner_text()
    page.keyboard.press("Alt+e")
    expect(page.locator("#input")).to_have_value("A question about otters")
    send(page, "A question about badgers")
    expect(page.locator(".message.user .versions")).to_contain_text("2/2")
    page.reload()
    expect(page.locator(".message.user .body")).to_have_text("A question about badgers")
    page.locator('.message.user [data-act="earlier"]').click()
    expect(page.locator(".message.user .body")).to_have_text("A question about otters")
    assert last(page).inner_text() == answer
    page.keyboard.press("Alt+n")
    expect(page.locator(".message")).to_have_count(0)
    send(page, "Something else")
    expect(page.locator("#chats li")).to_have_count(2)
    page.fill("#search", "OTTERS question")
    expect(page.locator("#chats li")).to_have_count(1)
    page.fill("#search", "no such words")
    expect(page.locator("#none")).to_have_text("Nothing found.")
    page.fill("#search", "")
    item = page.locator("#chats li", has_text="otters")
    item.hover()
    item.locator('[data-act="rename"]').click()
    page.keyboard.type("Animals")
    page.keyboard.press("Enter")
    item = page.locator("#chats li", has_text="Animals")
    item.locator(".chat").click()
    expect(page.locator("#title")).to_have_text("Animals")
    exports(page)
    item.hover()
    item.locator('[data-act="remove"]').click()
    page.get_by_role("button", name="Keep it").click()
    expect(page.locator("#chats li")).to_have_count(2)
    item.hover()
    item.locator('[data-act="remove"]').click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#chats li")).to_have_count(1)


def exports(page):
    files = {}
    for kind in ("Markdown", "JSON"):
        page.locator('[data-act="share"]').click()
        with page.expect_download() as download:
            page.get_by_role("button", name=kind).click()
        files[kind] = download.value.path().read_text()
        assert download.value.suggested_filename.startswith("Animals."), download.value.suggested_filename
    assert files["Markdown"].startswith("# Animals\n\n## You\n\nA question about otters\n\n## Model")
    chat = json.loads(files["JSON"])["conversations"][0]
    assert len([node for node in chat["nodes"] if node["role"] == "user"]) == 2
    n = page.locator("#chats li").count()
    upload(page, files["JSON"])
    expect(page.locator("#chats li")).to_have_count(n + 1)
    expect(page.locator(".message.user .body")).to_have_text("A question about otters")
    page.locator("#chats li .chat[aria-current]").hover()
    page.locator('#chats li:has([aria-current]) [data-act="remove"]').click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#chats li")).to_have_count(n)


def upload(page, text):
    page.set_input_files("#file", {"name": "x.json", "mimeType": "application/json", "buffer": text.encode()})


@check
def an_answer_follows_a_schema(f):
    page = f.page(f.teff)
    page.keyboard.press("Alt+o")
    page.get_by_label("Form").select_option("schema")
    page.get_by_label("JSON schema").fill("{")
    expect(page.locator("#schema-problem")).not_to_be_empty()
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    page.get_by_label("JSON schema").fill(json.dumps(schema))
    expect(page.locator("#schema-problem")).to_be_empty()
    page.get_by_label("System prompt").fill("You are terse.")
    page.keyboard.press("Escape")
    send(page, "Is the sky blue?")
    assert isinstance(json.loads(last(page, "pre").inner_text())["yes"], bool)
    kept = page.evaluate("JSON.parse(localStorage.getItem(Object.keys(localStorage).find((k) => /chat/.test(k)))).system")
    assert kept == "You are terse."


@check
def a_key_is_asked_for(f):
    process, url = start_teff(f.program, f.model, env={"TEFF_API_KEY": "open sesame"})
    if f.sources:
        _, url = fake_server.start(f.fake.page, real=url)
    try:
        context = f.browser.new_context(viewport=DESKTOP)
        f.contexts.append(context)
        page = context.new_page()
        page.problems = []
        page.goto(url)
        expect(page.get_by_label("Key", exact=True)).to_be_focused()
        f.shot(page, "key")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-why")).to_contain_text("The server wants an API key")
        page.get_by_label("Key", exact=True).fill("open sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#about")).to_contain_text("tokens of context")
        limit(page, 8)
        send(page, "Hello")
        expect(last(page)).not_to_be_empty()
        page.reload()
        expect(page.locator("#about")).to_contain_text("tokens of context")
    finally:
        process.terminate()
        process.wait()


# ---------------------------------------------------------------- with answers made to hurt


@check
def hostile_answers_are_text(f):
    for size, scheme in ((DESKTOP, "light"), (PHONE, "dark")):
        page = f.page(size=size, scheme=scheme)
        send(page, "hostile")
        f.shot(page, f"hostile-{size['width']}")
        assert page.evaluate("window.hurt === undefined")
        assert not page.locator(".md script, .md img, .md iframe, .md b, .md svg").count()
        links = page.locator(".md a").evaluate_all("(links) => links.map((a) => [a.href, a.rel, a.target])")
        assert links
        for href, rel, target in links:
            assert href.startswith(("https://good.example/", "https://outside.example/", "mailto:a@")), href
            assert "noopener" in rel and "noreferrer" in rel and target == "_blank"
        assert fits(page)
        # A title, a name and a call are no markup either.
        send(page, "<img src=x onerror=window.hurt=1>")
        send(page, "call <b>")
        assert "Paris<script>" in page.locator(".call pre").inner_text()
        assert page.evaluate("window.hurt === undefined") and not page.locator(".message img").count()


@check
def pieces_make_no_difference(f):
    """What is shown of a text depends on the text, not on how it came."""
    page = f.page()
    for text in fake_server.MARKDOWN:
        wrong = page.evaluate(
            """(text) => {
                const shown = (sizes) => {
                  const root = document.createElement("div");
                  const markdown = new Markdown(root);
                  for (let i = 0, n = 0; i < text.length; n++) {
                    const size = sizes[n % sizes.length];
                    markdown.push(text.slice(i, i + size));
                    i += size;
                  }
                  return root.innerHTML;
                };
                const whole = shown([1e9]);
                for (const sizes of [[1], [2], [3, 1], [5, 7, 2], [17], [64, 1, 1]]) {
                  const found = shown(sizes);
                  if (found !== whole) return [sizes, found, whole];
                }
                return null;
            }""",
            text,
        )
        assert wrong is None, (text, wrong)
    shown = page.evaluate(
        """(text) => { const root = document.createElement("div"); new Markdown(root).push(text); return root.innerHTML; }""",
        "- a\n  - b\n\n1. c\n2. *d* **e** `f`\n\n> g\n\n# h\n\n| i | j |\n|--|-:|\n| k | l |\n",
    )
    expected = (
        '<ul><li><p>a</p><ul><li><p>b</p></li></ul></li></ul><ol><li><p>c</p></li><li><p><em>d</em> '
        "<strong>e</strong> <code>f</code></p></li></ol><blockquote><p>g</p></blockquote><h3>h</h3>"
        '<div class="table" tabindex="0" role="region" aria-label="Table"><table><thead><tr><th>i</th>'
        '<th class="right">j</th></tr></thead><tbody><tr><td>k</td><td class="right">l</td></tr></tbody></table></div>'
    )
    assert shown == expected, shown


@check
def long_texts_of_marks_end(f):
    """Texts that make careless readers of Markdown take the square of their length."""
    page = f.page()
    for unit in ("*", "_a", "**a ", "[", "[a](", "`a``b```", "> ", "- ", "|", "<https://", "~~a", "\\", "&", "](", "a*b_c"):
        page.evaluate("(text) => new Markdown(document.createElement('div')).push(text)", unit * 20_000)


@check
def troubles_are_told(f):
    page = f.page()
    f.fake.n_tries = 0
    send(page, "busy", waits=False)
    expect(last(page, ".state")).to_contain_text("Trying again in 1 second")
    f.shot(page, "busy")
    idle(page)
    expect(last(page)).to_have_text("There was a place.")
    for word, text, trouble in (
        ("refused", "", "Temperature: must be a number."),
        ("broken", "It begins", "The model failed."),
        ("cut", "It begins and", "The connection ended before the answer did."),
        ("garbage", "", "no JSON"),
    ):
        send(page, word)
        expect(last(page)).to_have_text(text)
        expect(last(page, ".trouble")).to_contain_text(trouble)
    f.shot(page, "troubles")
    page.reload()
    expect(last(page, ".trouble")).to_contain_text("no JSON")
    # What failed is no part of what is asked next.
    send(page, "hello")
    roles = [message["role"] for message in f.fake.bodies[-1]["messages"]]
    assert roles == ["user", "assistant", "user", "user", "assistant", "user", "assistant", "user", "user"], roles


@check
def prompts_and_thoughts_are_shown(f):
    page = f.page()
    f.fake.hold.clear()
    send(page, "progress", waits=False)
    expect(last(page, ".state")).to_contain_text("1,024 of 2,048 tokens")
    f.shot(page, "progress")
    f.fake.hold.set()
    idle(page)
    expect(last(page)).to_have_text("Read.")
    send(page, "think")
    expect(last(page, "details")).not_to_have_attribute("open", "")
    expect(last(page, "summary")).to_contain_text(re.compile("^Thought"))
    last(page, "summary").click()
    expect(last(page, "details .plain")).to_contain_text("Thought 19 about <b>it</b>.")
    expect(last(page)).to_have_text("The answer is 42.")
    f.shot(page, "thought")


@check
def calls_are_answered(f):
    page = f.page()
    send(page, "call it")
    f.shot(page, "call")
    page.get_by_label("What get_weather gave").fill("sunny")
    page.get_by_role("button", name="Send results").click()
    idle(page)
    expect(last(page)).to_have_text("It is sunny.")
    messages = f.fake.bodies[-1]["messages"]
    assert messages[-2]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Paris<script>"}'}
    assert messages[-1] == {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}


@check
def settings_are_sent(f):
    page = f.page()
    page.locator("#model").select_option("large-model")
    page.keyboard.press("Alt+o")
    values = {"Temperature": "0.5", "Top p": "0.9", "Top k": "7", "Min p": "0.1", "Repeat penalty": "1.1",
              "Max tokens": "99", "Seed": "3"}
    for label, value in values.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Thinking").select_option("off")
    f.shot(page, "settings")
    page.keyboard.press("Escape")
    send(page, "hello")
    body = f.fake.bodies[-1]
    wanted = {"model": "large-model", "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1,
              "repeat_penalty": 1.1, "max_tokens": 99, "seed": 3, "reasoning_effort": "none", "stream": True}
    assert {name: body.get(name) for name in wanted} == wanted, body
    page.keyboard.press("Alt+o")
    page.get_by_label("Top p", exact=True).fill("7")
    expect(page.get_by_label("Top p", exact=True)).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Back to the defaults").click()
    page.keyboard.press("Escape")
    page.reload()
    send(page, "hello")
    assert not set(f.fake.bodies[-1]) & {"temperature", "top_p", "seed"}
    assert f.fake.bodies[-1]["model"] == "large-model"


@check
def thousands_of_tokens_stay_whole(f):
    page = f.page()
    send(page, "long")
    expect(last(page, ".body p")).to_have_text("The end.")
    text = last(page).inner_text()
    assert text.split()[:-2] == [f"word{i}" for i in range(5000)]
    # A screen reader is told sentences, not tokens, and not all that ever was.
    assert page.locator("#live p").count() <= 40


@check
def conversations_go_on_in_the_background(f):
    page = f.page()
    send(page, "slow", waits=False)
    expect(last(page)).to_contain_text("word5 ")
    page.keyboard.press("Alt+n")
    expect(page.locator(".message")).to_have_count(0)
    page.locator("#chats .chat", has_text="slow").click()
    expect(last(page)).to_contain_text("word60 ")
    page.keyboard.press("Escape")
    idle(page)
    words = last(page).inner_text().split()
    assert words == [f"word{i}" for i in range(len(words))]
    # A reload in the middle of an answer keeps what came.
    send(page, "slow", waits=False)
    expect(last(page)).to_contain_text("word5 ")
    page.reload()
    expect(last(page)).to_contain_text("word5 ")
    expect(last(page, ".stats")).to_contain_text("interrupted")


@check
def wrong_files_are_refused(f):
    page = f.page()
    for text in ("", "{", "[]", "null", "{}", '{"nodes": 1}', '{"nodes": [{"role": "robot", "text": "", "parent": -1}]}',
                 '{"nodes": [{"role": "user", "text": "", "parent": 0}]}', '{"nodes": [], "pick": {"-1": 5}}',
                 '{"nodes": [{"role": "assistant", "text": "", "parent": -1, "calls": [null]}]}',
                 '{"conversations": [{"nodes": []}, 7]}'):
        upload(page, text)
        expect(page.locator("#notice")).to_be_visible()
        expect(page.locator("#chats li")).to_have_count(0)
        page.evaluate("notice('')")
    upload(page, '{"nodes": [{"role": "user", "text": "<b>hi</b>", "parent": -1}], "title": "<i>t</i>"}')
    expect(page.locator(".message.user .body")).to_have_text("<b>hi</b>")
    expect(page.locator("#title")).to_have_text("<i>t</i>")


@check
def a_full_browser_says_so(f):
    page = f.page()
    page.evaluate("localStorage.setItem('filler', 'x'.repeat(5 * 1024 * 1024 - 20000))")
    send(page, "long")
    expect(page.locator("#notice")).to_contain_text("no room")
    expect(last(page, ".body p")).to_have_text("The end.")
    page.evaluate("localStorage.setItem('teff.chat.x', '{')")
    page.evaluate("localStorage.setItem('teff.settings', '[')")
    page.reload()
    expect(page.locator("#send")).to_be_visible()


@check
def the_keyboard_is_enough(f):
    page = f.page()
    expect(page.locator("#input")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    idle(page)
    expect(page.locator(".message.user .body")).to_have_text("one\ntwo")
    page.keyboard.press("Alt+k")
    expect(page.locator("#help")).to_be_visible()
    f.shot(page, "help")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("Alt+m")
    expect(page.locator("#model")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#input")).to_be_focused()
    page.keyboard.press("Alt+t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    # Every control is reached by Tab, shows that it has the focus, and has a name.
    page.evaluate("document.body.focus()")
    wanted = page.evaluate(
        """[...document.querySelectorAll('#app button, #app input, #app select, #app textarea, #app a[href]')]
           .filter((el) => !el.disabled && el.checkVisibility({visibilityProperty: true}) && el.tabIndex >= 0).length"""
    )
    seen = set()
    for _ in range(wanted + 30):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => { const el = document.activeElement; const style = getComputedStyle(el);
                 const box = el.closest('form') && el.tagName === 'TEXTAREA' ? getComputedStyle(el.closest('form')) : style;
                 return [[...document.querySelectorAll('*')].indexOf(el), el.tagName, el.id,
                   style.outlineStyle !== 'none' || box.borderColor !== '',
                   (el.getAttribute('aria-label') || el.labels?.[0]?.textContent || el.textContent || '').trim()]; }"""
        )
        if found[1] in ("BUTTON", "INPUT", "SELECT", "TEXTAREA"):
            assert found[3] and found[4], found
            seen.add(found[0])
    assert len(seen) >= wanted, (len(seen), wanted)


@check
def phones_have_room(f):
    for scheme in ("light", "dark"):
        page = f.page(size=PHONE, scheme=scheme, has_touch=True, is_mobile=True)
        f.shot(page, f"phone-{scheme}-empty")
        send(page, "prose")
        assert fits(page)
        page.evaluate("document.getElementById('log').scrollTop = 0")
        f.shot(page, f"phone-{scheme}")
        page.locator("#menu").tap()
        expect(page.locator("#search")).to_be_focused()
        f.shot(page, f"phone-{scheme}-list")
        page.keyboard.press("Escape")
        expect(page.locator("#side")).to_be_hidden()
        page.locator('header [data-act="settings"]').tap()
        f.shot(page, f"phone-{scheme}-settings")
        assert fits(page)
        small = page.evaluate(
            """[...document.querySelectorAll('header button, #composer button')].map((el) => el.getBoundingClientRect())
               .filter((box) => Math.min(box.width, box.height) < 32).length"""
        )
        assert small == 0


@check
def colours_can_be_read(f):
    """Texts have a contrast of 4.5 to what is behind them, in both schemes."""
    for scheme in ("light", "dark"):
        page = f.page(scheme=scheme)
        send(page, "prose")
        send(page, "cut")
        f.shot(page, f"desktop-{scheme}")
        low = page.evaluate(
            """() => {
                const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
                const rgb = (color, under) => {
                  canvas.fillStyle = under ?? '#fff'; canvas.fillRect(0, 0, 1, 1);
                  canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
                  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
                };
                const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
                const light = (rgb) => rgb.map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
                  .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
                const behind = (el) => {
                  const chain = [];
                  for (let e = el; e; e = e.parentElement) chain.unshift(getComputedStyle(e).backgroundColor);
                  return chain.reduce((under, color) => css(rgb(color, under)), '#fff');
                };
                const found = [];
                for (const el of document.querySelectorAll('#app *')) {
                  const hasText = [...el.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
                  if (!hasText || el.closest('.hidden, :disabled') || !el.checkVisibility()) continue;
                  const back = behind(el);
                  const [a, b] = [light(rgb(getComputedStyle(el).color, back)), light(rgb(back))].sort((a, b) => b - a);
                  const contrast = (a + .05) / (b + .05);
                  if (contrast < 4.5) found.push([el.className, el.textContent.slice(0, 20), contrast]);
                }
                return found;
            }"""
        )
        assert not low, low


# ---------------------------------------------------------------- the servers


def start_teff(program, model, env=None):
    command = [program, "serve", "-m", model, "--port", "0", "--no-log", "--ctx", "4096"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
    for line in process.stderr:
        if found := re.search(r"listening at (http://\S+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, found[1]
    raise SystemExit(f"{command} does not listen")


def chromium():
    """Where a browser is; Playwright's own, if there is one, otherwise."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "chromium"], check=True)
        return shutil.which("chromium")
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--shots", type=pathlib.Path)
    parser.add_argument("--sources", action="store_true")
    parser.add_argument("--only")
    args = parser.parse_args()
    if args.shots:
        args.shots.mkdir(parents=True, exist_ok=True)
    process, teff = start_teff(args.program, args.model)
    failed = 0
    try:
        real = teff
        if args.sources:
            page = fake_server.page_of_sources()
            _, teff = fake_server.start(page, real=teff)
        else:
            with urllib.request.urlopen(teff) as response:
                page = response.read(), response.headers["Content-Security-Policy"]
        fake, url = fake_server.start(page)
        with sync_playwright() as playwright:
            # Without namespaces for itself, as in a container, Chromium wants to be told.
            sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=chromium(), args=sandbox)
            fixture = Fixture(browser, teff, fake, url, args.shots)
            fixture.real, fixture.sources = real, args.sources
            fixture.program, fixture.model = args.program, args.model
            checks = [check for check in CHECKS if not args.only or args.only in check.__name__]
            assert checks, f"no check has {args.only} in its name"
            for check in checks:
                try:
                    check(fixture)
                    fixture.close()
                    print(f"ok    {check.__name__}", flush=True)
                except Exception as error:
                    failed += 1
                    fixture.contexts.clear()
                    print(f"WRONG {check.__name__}: {type(error).__name__}: {str(error)[:1200]}", flush=True)
            browser.close()
    finally:
        process.terminate()
        process.wait()
    print(f"{len(checks) - failed} of {len(checks)} checks hold")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
