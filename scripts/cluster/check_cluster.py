#!/usr/bin/env python3
"""Two replicas behind the router, under load: sessions of several turns, each with a long prefix of its own, streamed.
First in peace, then with one replica killed (SIGKILL) in the middle, and started again. No request may be lost that
had not begun to stream; one that had may break off, and its client asks again. Every answer is compared with what a
replica says that is asked itself. Tells throughput, and what of the prompts the replicas had in their caches.

    scripts/cluster/check_cluster.py target/release/teff smollm2:135m [--sessions 12] [--turns 4] [--at-a-time 6]
"""

import argparse
import asyncio
import collections
import json
import os
import socket
import sys
import time

import cluster

try:
    import httpx
except ImportError:
    cluster.install()
    os.execv(cluster.PYTHON, [cluster.PYTHON, __file__, *sys.argv[1:]])

QUERIES, HITS, TOKENS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total", "vllm:generation_tokens_total"

SAMPLING = {"temperature": 0, "max_tokens": 32}


class Load:
    """Sessions that ask one question after the other."""

    def __init__(self, router, args, name):
        self.router, self.args, self.name = router, args, name
        self.ends = collections.Counter()
        self.failures = []
        self.answers = []
        self.tokens = 0
        self.n_done = 0
        self.places = asyncio.Semaphore(args.at_a_time)

    async def run(self, on_middle=None):
        start = time.monotonic()
        total = self.args.sessions * self.args.turns
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.router.url, timeout=300, limits=limits) as client:
            sessions = [asyncio.create_task(self.session(client, i)) for i in range(self.args.sessions)]
            if on_middle:
                while self.n_done < total // 3:
                    await asyncio.sleep(0.01)
                on_middle()
            await asyncio.gather(*sessions)
        seconds = time.monotonic() - start
        print(f"{self.name}: {total} requests, {dict(self.ends)}, {self.tokens} tokens in {seconds:.1f} s, "
              f"{self.tokens / seconds:.1f} tokens/s")

    async def session(self, client, i):
        facts = " ".join(f"In {self.name} room {i} number {n} stands a chair of {n * 7 + i} kilograms." for n in range(24))
        messages = [{"role": "system", "content": facts}]
        for turn in range(self.args.turns):
            messages.append({"role": "user", "content": f"Tell me about chair {turn}."})
            async with self.places:
                text = await self.ask(client, f"{self.name}-{i}", messages)
            messages.append({"role": "assistant", "content": text})

    async def ask(self, client, session, messages):
        """An answer; once more if it broke off behind its first token, as clients do."""
        for _ in range(5):
            end, text = await self.stream(client, session, messages)
            self.ends[end] += 1
            if end != "broken off":
                break
        self.n_done += 1
        self.answers.append((list(messages), text))
        return text

    async def compare(self, replica):
        """Whether a replica that is asked itself says the same: what a router ended in good order may be half."""
        async with httpx.AsyncClient(base_url=replica.url, timeout=300) as client:
            for messages, text in self.answers:
                body = {"messages": messages, **SAMPLING}
                answer = (await client.post("/v1/chat/completions", json=body)).json()
                whole = answer["choices"][0]["message"]["content"]
                if text != whole:
                    self.failures.append(f"an answer is not the model's: {text[-40:]!r} for {whole[-40:]!r}")

    async def stream(self, client, session, messages):
        body = {"model": self.router.model, "messages": messages, "stream": True, **SAMPLING,
                "stream_options": {"include_usage": True}}
        text, is_over = "", False
        try:
            headers = {"x-litellm-session-id": session, "Authorization": f"Bearer {self.router.key}"}
            async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    self.failures.append(f"{answer.status_code}: {answer.text[:300]}")
                    return "lost", ""
                async for line in answer.aiter_lines():
                    if line == "data: [DONE]":
                        return ("whole" if is_over else "broken off"), text
                    if not line.startswith("data: "):
                        continue
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        break
                    self.tokens += (chunk.get("usage") or {}).get("completion_tokens", 0)
                    for choice in chunk["choices"]:
                        text += choice["delta"].get("content") or ""
                        is_over |= choice.get("finish_reason") is not None
        except httpx.HTTPError as error:
            if not text:
                self.failures.append(repr(error))
        if not text:
            self.failures.append("the stream ended before its first token")
        return ("broken off" if text else "lost"), text


def tell_prefixes(replicas, before):
    for i, (replica, (queries, hits, tokens)) in enumerate(zip(replicas, before)):
        asked = replica.figure(QUERIES) - queries
        share = (replica.figure(HITS) - hits) / asked if asked else 0
        print(f"  replica {i}: {asked:.0f} tokens of prompts, {share:.0%} of them cached; "
              f"{replica.figure(TOKENS) - tokens:.0f} tokens answered")


def figures(replicas):
    return [[replica.figure(name) for name in (QUERIES, HITS, TOKENS)] for replica in replicas]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--sessions", type=int, default=12)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--at-a-time", type=int, default=6)
    args = parser.parse_args()
    cluster.install()
    replicas = [cluster.Replica(args.program, args.model, ["-t", "1", "--ctx", "2048"]) for _ in range(2)]
    try:
        router = cluster.Router(replicas, free_port())
        try:
            holds = asyncio.run(check(router, replicas, args))
        finally:
            router.stop()
    finally:
        for replica in replicas:
            replica.stop()
    sys.exit(0 if holds else 1)


async def check(router, replicas, args):
    before = figures(replicas)
    peace = Load(router, args, "peace")
    await peace.run()
    tell_prefixes(replicas, before)
    both = [replica.figure(TOKENS) > old[2] for replica, old in zip(replicas, before)]
    await peace.compare(replicas[1])
    storm = Load(router, args, "storm")
    await storm.run(on_middle=replicas[0].kill)
    await storm.compare(replicas[1])
    replicas[0].start(replicas[0].port)
    before = figures(replicas)
    # The router leaves a replica out for some seconds after it failed.
    await asyncio.sleep(6)
    after = Load(router, args, "after")
    await after.run()
    tell_prefixes(replicas, before)
    problems = [f"{load.name}: {failure}" for load in (peace, storm, after) for failure in load.failures]
    problems += ["peace: an answer broke off"] if peace.ends["broken off"] else []
    problems += [] if all(both) else ["one replica had nothing to do"]
    problems += [] if replicas[0].figure(TOKENS) else ["the replica that came back has nothing to do"]
    whole = sum(load.ends["whole"] for load in (peace, storm, after))
    problems += [] if whole == 3 * args.sessions * args.turns else [f"only {whole} answers are whole"]
    print("\n".join(problems) if problems else "no request was lost that had not begun to stream")
    return not problems


if __name__ == "__main__":
    main()
