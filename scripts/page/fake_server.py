"""A server with the page and an API like OpenAI's whose answers are what the page has to bear: markup, cut
connections, refusals, thoughts, calls. What it answers is chosen by the last message."""

import base64
import hashlib
import http.client
import json
import pathlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROOT = pathlib.Path(__file__).resolve().parents[2]

HOSTILE = """# Title <script>window.hurt = 1</script>

<script>window.hurt = 1</script>
<img src=x onerror="window.hurt = 1">
<iframe src="javascript:window.hurt=1"></iframe>

[script](javascript:window.hurt=1) [data](data:text/html,<script>window.hurt=1</script>)
[upper](JaVaScRiPt:window.hurt=1) [blanks]( javascript:window.hurt=1 ) [tab](java\tscript:window.hurt=1)
[entity](&#106;avascript:window.hurt=1) [vb](vbscript:hurt) [file](file:///etc/passwd)
![picture](https://outside.example/x.png) ![inline](data:image/svg+xml,<svg onload=hurt>)
<javascript:window.hurt=1> <https://good.example/?a=1&b=2> https://good.example/bare_(one)).
[good](https://good.example/path "title") [mail](mailto:a@good.example)
`<b>code</b>` **<b>bold</b>** [nested [deep](https://good.example)](javascript:window.hurt=1)

| <b>a</b> | [x](javascript:window.hurt=1) |
|---|---|
| <script>window.hurt=1</script> | `|` |

```html
<script>window.hurt = 1</script>
```
"""

PROSE = """## Tea and coffee

Both come from **plants**, both hold *caffeine*, and ~~neither~~ each has a `ritual`. See
[the article](https://good.example/tea) for more.

| | Tea | Coffee |
|:--|:-:|--:|
| Caffeine per cup | 30 to 50 mg | 80 to 120 mg |
| Temperature | 70 to 95 °C | 90 to 96 °C |
| Time | 2 to 5 min | 4 min |

1. Boil the water.
2. Wait a little:
   - green tea: three minutes
   - black tea: one minute
     - less in the mountains
3. Pour.

- [x] cups
- [ ] sugar

> It is not what one drinks,
> it is that one stops to drink it.

```python
def brew(grams: float, seconds: int = 180) -> str:
    # A line that is longer than most, so that the block scrolls and the page does not get any wider.
    return f"{grams:.1f} g for {seconds} s"
```

---

### In short
Take your time.
"""

MARKDOWN = [
    HOSTILE,
    PROSE,
    "```\nendless fence\n- no list\n" + "more\n" * 20,
    "~~~~ a\n```\n~~~\nstill\n~~~~\nout\n\n```x\n```",
    "| a | b |\n|---|\n| c |\n\n|a|b|c|\n|-|:-:|-:|\n|1|\n|1|2|3|4|\ntext",
    "a\n===\nb\n---\nc\n--\n\n***\n* * *\n- - -\n",
    "1) one\n2) two\n\n   inside\n3. other\n- x\n  - y\n    - z\n  - y\n\ntext\n",
    "> a\nlazy\n> > b\n> - c\n>   d\n\n> new\n\n- > q\n  > r\n",
    "**bold *both* bold** ***x*** __a__ _b_ a_b_c 2*3*4 **un *closed ~~s~~ ~t~ \\*no\\* `` a`b `` ` *",
    "[a](b) [a](https://x.example [b](https://x.example/(y)) ![](https://x.example) [](https://x.example)",
    "* * * * *\n- \n-\n\n1.\n\n#\n####### seven\n#none\n# # x #\n",
    "line  \nbreak\\\nbreak <br> &amp; &lt;b&gt; &#65; &#0; &unknown; é 日本 \U0001f600\n\r\nnext\r\n",
    "- a\n\n  ```py\n  x = 1\n\n  y\n ```\n- b\n\t- tab\n",
    "- " * 60 + "deep\n" + "> " * 60 + "deeper",
]

SHORT = {
    "hostile": HOSTILE,
    "prose": PROSE,
    "fence": MARKDOWN[2],
    "table": MARKDOWN[4],
}


def page_of_sources():
    """The page's document and its policy, as page.rs makes them, for those who work on it."""
    folder = ROOT / "src/serve/page"
    names = re.findall(r'include_str!\("page/(\w+\.js)"\)', (ROOT / "src/serve/page.rs").read_text())
    script = '"use strict";\n' + "".join((folder / name).read_text() for name in names)
    style, body = (folder / "page.css").read_text(), (folder / "body.html").read_text()
    sums = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    policy = (
        f"default-src 'self'; script-src 'sha256-{sums[0]}'; style-src 'sha256-{sums[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f'<title>teff</title><link rel="icon" href="data:,"><style>{style}</style><script>{script}</script>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'.encode(), policy


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            pass  # The page has stopped reading.

    def whole(self, status, body, kind="application/json", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            body, policy = self.server.page
            self.whole(200, body, "text/html; charset=utf-8", Content_Security_Policy=policy)
        elif self.path == "/v1/models":
            models = [{"id": name, "object": "model", "max_model_len": 8192} for name in ("small-model", "large-model")]
            self.whole(200, {"object": "list", "data": models})
        else:
            self.whole(404, {"error": {"message": "there is no such path"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        message = body["messages"][-1]
        word, _, rest = (message["content"] or "").partition(" ")
        if message["role"] == "tool":
            return self.answer([{"content": f"It is {message['content']}."}])
        if hasattr(self, f"on_{word}"):
            return getattr(self, f"on_{word}")(rest)
        self.answer(pieces(SHORT.get(word, f"You said: {message['content']}")))

    def begin(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def tell(self, value):
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def chunk(self, delta, finish=None, **more):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        self.tell({"id": "x", "model": "small-model", "choices": [choice], **more})

    def answer(self, deltas, finish="stop", wait=0.0):
        self.begin()
        self.chunk({"role": "assistant", "content": ""})
        n = 0
        for n, delta in enumerate(deltas, 1):
            self.chunk(delta)
            time.sleep(wait)
        self.chunk({}, finish, timings={"prompt_n": 12, "cache_n": 28, "predicted_per_second": 43.21})
        details = {"prompt_tokens_details": {"cached_tokens": 28}}
        self.tell({"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": n, **details}})
        self.wfile.write(b"data: [DONE]\n\n")

    def on_busy(self, rest):
        """Has a place at the third try."""
        self.server.n_tries += 1
        if self.server.n_tries < 3:
            error = {"message": "3 requests run or wait already", "type": "rate_limit_error"}
            return self.whole(429, {"error": error}, Retry_After="1")
        self.answer([{"content": "There was a place."}])

    def on_refused(self, rest):
        self.whole(400, {"error": {"message": "temperature: must be a number", "param": "temperature"}})

    def on_broken(self, rest):
        self.begin()
        self.chunk({"role": "assistant", "content": "It begins"})
        self.tell({"error": {"message": "the model failed", "code": "internal_error"}})

    def on_cut(self, rest):
        self.begin()
        self.chunk({"role": "assistant", "content": "It begins and"})

    def on_garbage(self, rest):
        self.begin()
        self.wfile.write(b": comment\n\ndata: {\n\n")

    def on_slow(self, rest):
        self.answer(({"content": f"word{i} "} for i in range(4000)), wait=0.02)

    def on_long(self, rest):
        """Thousands of tokens as fast as they go."""
        self.answer({"content": piece} for piece in [*(f"word{i} " for i in range(5000)), "\n\nThe end."])

    def on_progress(self, rest):
        self.begin()
        for done in (0, 512, 1024):
            progress = {"total": 2048, "cache": 0, "processed": done, "time_ms": 1}
            self.tell({"choices": [], "prompt_progress": progress})
        self.server.hold.wait(30)
        self.chunk({"role": "assistant", "content": "Read."})
        self.chunk({}, "stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def on_think(self, rest):
        thoughts = [{"reasoning_content": f"Thought {i} about <b>it</b>. "} for i in range(20)]
        self.answer([*thoughts, {"content": "The answer is **42**."}])

    def on_call(self, rest):
        first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        deltas = [{"tool_calls": [first]}]
        for part in ('{"city": ', '"Paris<script>"', "}"):
            deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        self.answer(deltas, "tool_calls")

    def on_length(self, rest):
        self.answer([{"content": "This is half"}], "length")


class Passing(Handler):
    """The page before the API of a real server."""

    def do_GET(self):
        if self.path == "/":
            return super().do_GET()
        self.pass_on(None)

    def do_POST(self):
        self.pass_on(self.rfile.read(int(self.headers["Content-Length"])))

    def pass_on(self, body):
        real = http.client.HTTPConnection(self.server.real.split("//")[1], timeout=300)
        names = ("Authorization", "Content-Type")
        real.request(self.command, self.path, body, {n: self.headers[n] for n in names if n in self.headers})
        answer = real.getresponse()
        self.send_response(answer.status)
        for name in ("Content-Type", "Retry-After"):
            if value := answer.headers[name]:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            while data := answer.read1(65536):
                self.wfile.write(data)
        finally:
            # The server is to notice that the page has left.
            answer.close()
            real.close()


def pieces(text):
    """A text in pieces as tokens are, most of them short."""
    return [{"content": piece} for piece in re.findall(r"\s?\w{1,6}|\s|[^\w\s]{1,2}", text)]


def start(page, real=None):
    """Starts the server; `page` is the document and its policy, `real` a server whose API is to be passed on."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Passing if real else Handler)
    server.daemon_threads, server.real = True, real
    server.page, server.bodies, server.n_tries, server.hold = page, [], 0, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


if __name__ == "__main__":
    server, url = start(page_of_sources())
    print(url, flush=True)
    threading.Event().wait()
