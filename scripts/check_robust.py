#!/usr/bin/env python3
"""Whether `teff serve` stays up: thousands of requests that break off, are malformed, huge or read slowly, beside
good ones whose answers have to be right. At the end the server says what it said at the beginning, has
nothing under way, and as much memory as before.

    python3 scripts/check_robust.py target/release/teff smollm2:135m [REQUESTS] [AT_A_TIME]
"""

import asyncio
import collections
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse

DICE = random.Random(7)
GOOD = {"messages": [{"role": "user", "content": "Count to five."}], "temperature": 0, "max_tokens": 12}
FIGURES = collections.Counter()
HEALTH = []


def start(program, model):
    command = [program, "serve", "-m", model, "--port", "0", "--no-log", "--max-queue", "512"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.search(r"listening at http://(\S+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, found[1]
    raise SystemExit("the server does not listen")


class Server:
    def __init__(self, address):
        self.address = address
        split = urllib.parse.urlsplit("//" + address)
        self.host, self.port = split.hostname, split.port

    def head(self, path, length, method="POST", more=""):
        return (f"{method} {path} HTTP/1.1\r\nHost: {self.address}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {length}\r\nConnection: close\r\n{more}\r\n").encode()

    async def ask(self, path, body=None, method=None):
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(self.head(path, len(data), method or ("GET" if body is None else "POST")) + data)
            await writer.drain()
            answer = await asyncio.wait_for(reader.read(-1), 300)
        except ConnectionError:
            answer = b""
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        words = head.split(b" ", 2)
        return (int(words[1]) if len(words) > 1 else 0), body

    async def figure(self, pattern):
        _, body = await self.ask("/metrics")
        return sum(float(x) for x in re.findall(pattern, body.decode(), re.M))

    async def rss(self):
        return await self.figure(r"^process_resident_memory_bytes (\S+)") / 2**20

    async def good(self):
        status, body = await self.ask("/v1/chat/completions", GOOD)
        if status == 429:
            return None
        assert status == 200, (status, body[:300])
        return json.loads(body)["choices"][0]["message"]["content"]


async def leaves(server, stream):
    """Breaks off at a random time."""
    body = json.dumps({**GOOD, "max_tokens": 400, "ignore_eos": True, "stream": stream,
                       "messages": [{"role": "user", "content": "x " * DICE.choice([1, 30, 600])}]}).encode()
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(server.head("/v1/chat/completions", len(body)) + body)
    try:
        await asyncio.wait_for(reader.read(DICE.choice([1, 500, 5000])), DICE.random())
    except (asyncio.TimeoutError, ConnectionError):
        pass
    writer.transport.abort()


async def half_a_body(server):
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(server.head("/v1/chat/completions", 5000) + b'{"messages": [')
    await asyncio.sleep(DICE.random())
    writer.transport.abort()


async def malformed(server):
    text = bytearray(json.dumps({**GOOD, "tools": [{"type": "function", "function": {"name": "f"}}]}).encode())
    for _ in range(DICE.randrange(1, 6)):
        text[DICE.randrange(len(text))] = DICE.randrange(256)
    path = DICE.choice(["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/infill",
                        "/apply-template", "/detokenize", "/v1/rerank"])
    status, body = await server.ask(path, bytes(text))
    assert 200 <= status < 500, (path, bytes(text), status, body[:300])


async def huge(server):
    size = DICE.choice([1 << 20, 7 << 20, 9 << 20])
    status, _ = await server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": "y" * size}]})
    assert status in (0, 400, 413), status


async def deep(server):
    status, _ = await server.ask("/v1/chat/completions", b'{"messages":' + b"[" * 10**6)
    assert status == 400, status


async def no_http(server):
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(bytes(DICE.randrange(256) for _ in range(DICE.randrange(2000))) + b"\r\n\r\n")
    try:
        await asyncio.wait_for(reader.read(1000), 1)
    except (asyncio.TimeoutError, ConnectionError):
        pass
    writer.transport.abort()


async def slow_reader(server):
    body = json.dumps({**GOOD, "max_tokens": 60, "stream": True}).encode()
    reader, writer = await asyncio.open_connection(server.host, server.port, limit=1)
    writer.write(server.head("/v1/chat/completions", len(body)) + body)
    try:
        for _ in range(20):
            await reader.read(50)
            await asyncio.sleep(0.05)
    except ConnectionError:
        pass
    writer.transport.abort()


async def one(server, expected):
    kind = DICE.choices(["good", "leaves", "half", "malformed", "huge", "deep", "no_http", "slow"],
                        [25, 30, 10, 20, 3, 2, 5, 5])[0]
    FIGURES[kind] += 1
    if kind == "good":
        text = await server.good()
        if text is None:
            FIGURES["of good, 429"] += 1
        elif text != expected:
            FIGURES["wrong texts"] += 1
    elif kind == "leaves":
        await leaves(server, DICE.random() < 0.5)
    else:
        await {"half": half_a_body, "malformed": malformed, "huge": huge, "deep": deep,
               "no_http": no_http, "slow": slow_reader}[kind](server)


async def health(server):
    while True:
        began = time.perf_counter()
        status, _ = await server.ask("/health")
        HEALTH.append(time.perf_counter() - began)
        assert status == 200, status
        await asyncio.sleep(0.1)


async def main():
    program, model, *rest = sys.argv[1:]
    n, at_a_time = (int(rest[0]) if rest else 2000), (int(rest[1]) if rest[1:] else 24)
    process, address = start(program, model)
    server = Server(address)
    expected = await server.good()
    gate = asyncio.Semaphore(at_a_time)

    async def gated():
        async with gate:
            try:
                await one(server, expected)
            except AssertionError as error:
                FIGURES["failures"] += 1
                print("FAIL", error, flush=True)

    prober = asyncio.create_task(health(server))
    resident = []
    for part in range(4):
        await asyncio.gather(*(gated() for _ in range(n // 4)))
        resident.append(await server.rss())
        print(f"{(part + 1) * n // 4} requests, RSS {resident[-1]:.0f} MiB", flush=True)
    prober.cancel()
    end = time.time() + 30
    busy = r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)"
    while await server.figure(busy) > 0 and time.time() < end:
        await asyncio.sleep(0.1)
    left = await server.figure(busy)
    same = await server.good() == expected
    times = sorted(HEALTH)
    print(dict(FIGURES))
    print(f"/health: median {statistics.median(times) * 1e3:.1f} ms, p99 {times[len(times) * 99 // 100] * 1e3:.1f} ms, "
          f"max {times[-1] * 1e3:.1f} ms of {len(times)}")
    print(f"left running {left:.0f}; the same text at the end: {same}; RSS {' '.join(f'{x:.0f}' for x in resident)} MiB")
    process.terminate()
    code = process.wait(60)
    print(f"exit code {code}")
    sys.exit(bool(FIGURES["failures"] or FIGURES["wrong texts"] or left or not same or code))


asyncio.run(main())
