#!/usr/bin/env python3
"""Whether `teff serve` stays up: thousands of requests that break off, are malformed, huge or read slowly, beside
good ones of every API whose answers have to be right. At the end the server says what it said at the
beginning, has nothing under way, and as much memory as before.

    python3 scripts/check_robust.py target/release/teff smollm2:135m --requests 10000 --seconds 1800

Requests go on until as many have been made and so much time has passed. A line a part tells memory and figures;
the exit code is 1 if an answer was wrong, something was left running, or memory grew.
"""

import argparse
import asyncio
import collections
import json
import random
import re
import shlex
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse

DICE = random.Random()
GOOD = {"messages": [{"role": "user", "content": "Count to five."}], "temperature": 0, "max_tokens": 12}
LIMIT = GOOD["max_tokens"]
# Of each API: path, a request for the same answer, and how that is read.
APIS = {
    "chat": ("/v1/chat/completions", GOOD, lambda x: x["choices"][0]["message"]["content"]),
    "messages": ("/v1/messages", GOOD, lambda x: "".join(part["text"] for part in x["content"])),
    "responses": ("/v1/responses", {"input": GOOD["messages"][0]["content"], "temperature": 0, "max_output_tokens": LIMIT},
                  lambda x: x["output"][0]["content"][0]["text"]),
    "ollama": ("/api/chat", {"model": "any", "messages": GOOD["messages"], "stream": False,
                             "options": {"temperature": 0, "num_predict": LIMIT}}, lambda x: x["message"]["content"]),
}
FIGURES = collections.Counter()
HEALTH = []
PATHS = ["/v1/chat/completions"]


def options():
    parser = argparse.ArgumentParser(description="Requests of all kinds against teff serve")
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=2000, help="requests, at least")
    parser.add_argument("--seconds", type=float, default=0, help="time, at least")
    parser.add_argument("--at-a-time", type=int, default=24)
    parser.add_argument("--parts", type=int, default=8, help="parts behind which memory is read")
    parser.add_argument("--growth", type=float, default=5, help="per cent by which memory may grow behind the first quarter")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--kills", type=int, default=0, help="kill -9 and restart so often, between parts")
    parser.add_argument("--serve", default="", help="more arguments of teff serve, in one text")
    args = parser.parse_args()
    args.serve = shlex.split(args.serve)
    return args


def start(program, model, more):
    # Kept prefixes fill their budget, which is not to count as growth.
    bound = [] if "--kv-bytes" in more else ["--kv-bytes", "256M"]
    command = [program, "serve", "-m", model, "--port", "0", "--no-log", "--max-queue", "512", *bound, *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.search(r"listening at http://(\S+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, found[1]
    raise SystemExit("the server does not listen")


class Server:
    def __init__(self, address):
        self.address = address
        self.is_killed = False
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

    async def good(self, api="chat"):
        path, body, read = APIS[api]
        status, answer = await self.ask(path, body)
        if status == 429:
            return None
        assert status == 200, (path, status, answer[:300])
        return read(json.loads(answer))


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
    path = DICE.choice(PATHS)
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
    kind = DICE.choices(["good", "leaves", "half", "malformed", "huge", "deep", "no_http", "slow", "embeds"],
                        [30, 25, 10, 20, 2, 2, 5, 4, 2])[0]
    FIGURES[kind] += 1
    if kind == "good":
        text = await server.good(DICE.choice(list(APIS)))
        if text is None:
            FIGURES["of good, 429"] += 1
        elif text != expected:
            FIGURES["wrong texts"] += 1
    elif kind == "leaves":
        await leaves(server, DICE.random() < 0.5)
    else:
        await {"half": half_a_body, "malformed": malformed, "huge": huge, "deep": deep,
               "no_http": no_http, "slow": slow_reader, "embeds": embeds}[kind](server)


async def embeds(server):
    body = {"input": ["one", "two " * DICE.choice([1, 50])]}
    status, answer = await server.ask("/v1/embeddings", body)
    assert status in (200, 429), (status, answer[:300])


async def health(server):
    while True:
        began = time.perf_counter()
        status, _ = await server.ask("/health")
        HEALTH.append(time.perf_counter() - began)
        assert status == 200, status
        await asyncio.sleep(0.1)


async def part(server, args, n, seconds, expected):
    """Makes n requests, and goes on until the time is over."""
    end = time.time() + seconds
    left = n

    async def worker():
        nonlocal left
        while left > 0 or time.time() < end:
            left -= 1
            FIGURES["requests"] += 1
            try:
                await one(server, expected)
            except AssertionError as error:
                if not server.is_killed:
                    FIGURES["failures"] += 1
                    print("FAIL", error, flush=True)

    await asyncio.gather(*(worker() for _ in range(args.at_a_time)))


async def idle(server):
    """Waits until nothing is under way; what is left when that takes too long."""
    busy = r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)"
    end = time.time() + 30
    while await server.figure(busy) > 0 and time.time() < end:
        await asyncio.sleep(0.1)
    return await server.figure(busy)


async def known(server):
    """Paths of the routes that take a body."""
    _, body = await server.ask("/openapi.json")
    return [path for path, methods in json.loads(body)["paths"].items() if "post" in methods]


async def main():
    args = options()
    DICE.seed(args.seed)
    process, address = start(args.program, args.model, args.serve)
    server = Server(address)
    APIS["ollama"][1]["model"] = json.loads((await server.ask("/v1/models"))[1])["data"][0]["id"]
    PATHS[:] = await known(server)
    expected = await server.good()
    for api in APIS:
        assert await server.good(api) == expected, api
    resident, began, left_running = [], time.time(), 0
    kills = set(DICE.sample(range(1, args.parts), min(args.kills, args.parts - 1)))
    for number in range(args.parts):
        if number in kills:
            load = asyncio.create_task(part(server, args, 50, 1, expected))
            await asyncio.sleep(DICE.random() * 2)
            server.is_killed = True
            process.kill()
            process.wait()
            try:
                await load
            except OSError:
                pass
            since = time.perf_counter()
            process, address = start(args.program, args.model, args.serve)
            server.__init__(address)
            print(f"killed; up again in {time.perf_counter() - since:.2f} s", flush=True)
            resident.clear()
        prober = asyncio.create_task(health(server))
        await part(server, args, args.requests // args.parts, args.seconds / args.parts, expected)
        prober.cancel()
        left_running += await idle(server)
        resident.append(await server.rss())
        print(f"{time.time() - began:.0f} s, {FIGURES['requests']} requests, RSS {resident[-1]:.0f} MiB", flush=True)
    same = [await server.good(api) == expected for api in APIS]
    times = sorted(HEALTH)
    print(dict(FIGURES))
    print(f"/health: median {statistics.median(times) * 1e3:.1f} ms, p99 {times[len(times) * 99 // 100] * 1e3:.1f} ms, "
          f"max {times[-1] * 1e3:.1f} ms of {len(times)}")
    settled = resident[len(resident) // 4]
    # Of few parts nothing can be said.
    growth = (resident[-1] / settled - 1) * 100 if len(resident) >= 4 else 0
    print(f"left running {left_running:.0f}; the same texts at the end: {all(same)}; "
          f"RSS {' '.join(f'{x:.0f}' for x in resident)} MiB, {growth:+.1f} %")
    process.terminate()
    code = process.wait(60)
    print(f"exit code {code}")
    sys.exit(bool(FIGURES["failures"] or FIGURES["wrong texts"] or left_running or not all(same) or code
                  or growth > args.growth))


asyncio.run(main())
