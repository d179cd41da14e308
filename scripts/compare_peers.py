#!/usr/bin/env python3
"""Measure teff beside llama.cpp and ik_llama.cpp on the same files, the same CPU, in turn.

Every contender is a process of its own, run alternately for several rounds, so that a machine
that is busy or warm for a while slows all of them. The table shows each contender's best round
and the median over the rounds of teff / contender: compare ratios, never figures of two machines.

A peer is measured at its best: the first round tries all its modes (flash attention on and off,
repacked weights), later ones those that were fastest with the prompt or with the answer. Who has
fewer modes runs as often: where speed drifts, the best of three runs is better than one.
`stream` is the bandwidth of memory, measured by every run of teff right after its tokens; `of it`
is what decoding makes of that, if it reads the whole file once for a token, as it does for dense
models whose head is their embedding.

The peers run through their Python packages, in any environment:
    pip install --no-binary llama-cpp-python llama-cpp-python    # compiles for this CPU
    pip install ik-llama-cpp-python
A contender that is not there is left out with a note.

usage: scripts/compare_peers.py [--python VENV/bin/python] MODEL.gguf...
--markdown prints one line per model, teff beside the best peer, for the README
--neighbours 2 measures beside so many busy programs
writes benches/record/<machine>/<date>.csv unless --no-record
"""

import argparse
import contextlib
import csv
import datetime
import itertools
import json
import pathlib
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEERS = {  # name: (Python module with the C API, its package)
    "llama.cpp": ("llama_cpp", "llama-cpp-python"),
    "ik_llama.cpp": ("ik_llama_cpp._ctypes_api", "ik-llama-cpp-python"),
}
# Fields of the C API's (model parameters, context parameters), by the mode's name.
MODES = {
    "llama.cpp": {"fa": ({}, {"flash_attn_type": 1}), "no-fa": ({}, {"flash_attn_type": 0})},
    "ik_llama.cpp": {
        "fa": ({}, {"flash_attn": True}), "no-fa": ({}, {"flash_attn": False}),
        "fa-repacked": ({"repack_tensors": True, "use_mmap": False}, {"flash_attn": True}),
    },
    "teff": {"": ({}, {})},
}
KINDS = ("prompt", "gen")
BATCH = 512  # tokens per decode call, the peers' own default
RUN_SECONDS_MAX = 1800
COLUMNS = ["date", "machine", "model", "threads", "depth", "neighbours", "contender", "version",
           "prompt_tokens", "prompt_tps", "gen_tokens", "gen_tps", "prompt_ratio", "gen_ratio",
           "load_ms", "rss_mib_max", "rounds", "prompt_mode", "gen_mode", "prompt_best_ratio",
           "gen_best_ratio", "stream_gbps", "stream_share"]


def main():
    args = parse_args()
    if args.as_peer:
        print(json.dumps(run_peer(args.as_peer, args.models[0], args)))
        return
    contenders = ["teff"] + [p for p in args.peers.split(",") if p]
    rows = []
    for model in args.models:
        with neighbours(args.neighbours):
            results = measure(model, contenders, args)
        rows += summarize(model, results, args)
    (print_markdown if args.markdown else print_table)(rows)
    if rows and not args.no_record:
        print(f"\nrecorded in {record(rows)}")
    if not any(row["contender"] == "teff" for row in rows):
        sys.exit("error: teff itself was not measured")


def parse_args():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+", metavar="MODEL.gguf")
    p.add_argument("--teff", default=str(ROOT / "target/release/teff"), help="the program")
    p.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    p.add_argument("--peers", default=",".join(PEERS), help="comma-separated, may be empty")
    p.add_argument("-t", "--threads", type=int, default=2)
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--gen", type=int, default=64)
    p.add_argument("--depth", type=int, default=0, help="tokens in the cache beforehand")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--neighbours", type=int, default=0, help="busy programs beside")
    p.add_argument("--markdown", action="store_true", help="one line per model")
    p.add_argument("--no-record", action="store_true")
    p.add_argument("--mode", default="", help=argparse.SUPPRESS)
    p.add_argument("--as-peer", choices=list(PEERS), help=argparse.SUPPRESS)
    return p.parse_args()


# ------------------------------------------------------------------ the measuring side

@contextlib.contextmanager
def neighbours(n):
    """So many processes that compute as long as the block lasts."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(model, contenders, args):
    """{contender: [one result per round]}; a contender that fails is dropped with its reason."""
    results = {name: [] for name in contenders}
    modes = {name: list(MODES[name]) for name in contenders}
    for n in range(args.rounds):
        n_runs = max((len(modes[name]) for name in results), default=1)
        # Nobody always follows the same neighbour.
        for name in contenders[n % len(contenders):] + contenders[:n % len(contenders)]:
            if name not in results:
                continue
            try:
                result = best_of([(m, run_contender(name, m, model, args))
                                  for m in itertools.islice(itertools.cycle(modes[name]), n_runs)])
            except RuntimeError as why:
                print(f"note: {name} left out of {model}: {why}", file=sys.stderr)
                del results[name]
                continue
            modes[name] = sorted({result[f"{kind}_mode"] for kind in KINDS})
            results[name].append(result)
            print(f"round {n + 1}/{args.rounds} {pathlib.Path(model).name} {name} "
                  f"({', '.join(modes[name]) or 'its one mode'}): "
                  f"prompt {result['prompt_tps']:.1f}, gen {result['gen_tps']:.1f} tokens/s",
                  file=sys.stderr, flush=True)
    return results


def best_of(runs):
    """One result of those of [(mode, result)]: the best figures, and which mode's they are."""
    results = [result for _, result in runs]
    best = dict(results[0])
    for kind in KINDS:
        tps = f"{kind}_tps"
        best[f"{kind}_mode"], fastest = max(runs, key=lambda run: run[1][tps])
        best[tps] = fastest[tps]
    best["load_ms"] = min(r["load_ms"] for r in results)
    best["rss_mib_max"] = max(r["rss_mib_max"] for r in results)
    if "stream_gbps" in best:
        best["stream_gbps"] = max(r["stream_gbps"] for r in results)
    return best


def run_contender(name, mode, model, args):
    amounts = ["--prompt", str(args.prompt), "--gen", str(args.gen), "--depth", str(args.depth)]
    if name == "teff":
        command = [args.teff, "bench", "-m", model, "-t", str(args.threads), *amounts,
                   "--reps", "1", "--json"]
    else:
        command = [args.python, __file__, model, "--as-peer", name,
                   "--mode", mode, "--threads", str(args.threads), *amounts]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
    except OSError as e:
        raise RuntimeError(e) from e
    except subprocess.TimeoutExpired as e:
        raise RuntimeError(f"no result after {RUN_SECONDS_MAX} s") from e
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(said[-1])
    result = json.loads(lines[-1])
    if name == "teff":
        version = subprocess.run([args.teff, "--version"], capture_output=True, text=True)
        result["version"] = version.stdout.split()[-1] if version.stdout else "?"
    return result


def summarize(model, results, args):
    """One row per contender: its best figures, and teff's speed as a multiple of its speed."""
    rows = []
    ours = results.get("teff", [])
    peers = [rounds for name, rounds in results.items() if name != "teff" and rounds]
    for name, rounds in results.items():
        if not rounds:
            continue
        row = {
            "date": datetime.date.today().isoformat(), "machine": machine(),
            "model": pathlib.Path(model).name, "threads": args.threads, "depth": args.depth,
            "neighbours": args.neighbours, "contender": name, "version": rounds[0]["version"],
            "prompt_tokens": args.prompt, "gen_tokens": args.gen, "rounds": len(rounds),
            "load_ms": round(min(r["load_ms"] for r in rounds)),
            "rss_mib_max": round(max(r["rss_mib_max"] for r in rounds)),
        }
        for kind in KINDS:
            tps = f"{kind}_tps"
            row[tps] = round(max(r[tps] for r in rounds), 1)
            row[f"{kind}_mode"] = rounds[-1][f"{kind}_mode"]
            row[f"{kind}_ratio"] = ratio(ours, [rounds], tps)
            row[f"{kind}_best_ratio"] = ratio(ours, peers, tps) if name == "teff" else ""
        if name == "teff" and not args.neighbours:
            row["stream_gbps"] = max(r["stream_gbps"] for r in rounds)
            shares = [r["gen_tps"] * r["model_bytes"] / r["stream_gbps"] / 1e9 for r in rounds]
            row["stream_share"] = round(statistics.median(shares), 2)
        rows.append(row)
    return rows


def ratio(ours, others, tps):
    """The median over the rounds of ours / the best of the others, if both were measured."""
    pairs = [(a[tps], max(b[tps] for b in theirs)) for a, *theirs in zip(ours, *others) if theirs]
    quotients = [a / b for a, b in pairs if b]
    return round(statistics.median(quotients), 2) if quotients else ""


def print_markdown(rows):
    print("| model | prompt tokens/s | best peer | teff is | gen tokens/s | best peer | teff is "
          "| stream GB/s | of it |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for teff in (r for r in rows if r["contender"] == "teff"):
        cells = [teff["model"]]
        peers = [r for r in rows if r["model"] == teff["model"] and r["contender"] != "teff"]
        for kind in KINDS:
            best = max(peers, key=lambda r: r[f"{kind}_tps"], default=None)
            mode = best and f"{best['contender']} {best[f'{kind}_mode']}"
            cells += [teff[f"{kind}_tps"], f"{best[f'{kind}_tps']} ({mode})" if best else "",
                      f"{teff[f'{kind}_best_ratio']}x" if best else ""]
        share = f"{teff['stream_share']:.0%}" if "stream_share" in teff else ""
        cells += [teff.get("stream_gbps", ""), share]
        print("| " + " | ".join(map(str, cells)) + " |")


def print_table(rows):
    print("| model | contender | prompt tokens/s | teff is | gen tokens/s | teff is | load ms "
          "| MiB |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for r in rows:
        times = [f"{r[k]}x" if r[k] != "" and r["contender"] != "teff" else ""
                 for k in ("prompt_ratio", "gen_ratio")]
        print(f"| {r['model']} | {r['contender']} {r['version']} | {r['prompt_tps']} | {times[0]} "
              f"| {r['gen_tps']} | {times[1]} | {r['load_ms']} | {r['rss_mib_max']} |")


def record(rows):
    path = ROOT / "benches/record" / rows[0]["machine"] / f"{rows[0]['date']}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = ",".join(COLUMNS)
    n = 1
    # A day's file may be one with other columns.
    while path.exists() and path.read_text().split("\n", 1)[0] != header:
        n += 1
        path = path.with_name(f"{rows[0]['date']}-{n}.csv")
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)
    return path.relative_to(ROOT)


def machine():
    """The CPU's name as a folder's name, such as `amd-ryzen-7-5800x-8-core`."""
    name = ""
    if sys.platform == "darwin":
        name = output("sysctl", "-n", "machdep.cpu.brand_string")
    elif pathlib.Path("/proc/cpuinfo").exists():
        text = pathlib.Path("/proc/cpuinfo").read_text()
        found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.M)
        name = found.group(1) if found else ""
    name = name or platform.processor() or platform.machine()
    name = re.sub(r"\((r|tm|c)\)|\bcpu\b|\bprocessor\b|@.*", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")[:60] or "unknown"


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


# ------------------------------------------------------------------ the measured side

def run_peer(name, model, args):
    """Runs in the peers' interpreter: loads, warms up, then times one prompt and one answer."""
    import importlib
    from importlib.metadata import version

    module, package = PEERS[name]
    api = importlib.import_module(module)
    api.llama_backend_init()
    began = time.perf_counter()
    of_model, of_context = MODES[name][args.mode or next(iter(MODES[name]))]
    model_params = with_fields(api.llama_model_default_params(), of_model)
    loaded = api.llama_model_load_from_file(model.encode(), model_params)
    if not loaded:
        sys.exit(f"cannot load {model}")
    load_ms = (time.perf_counter() - began) * 1e3
    n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(loaded))
    batch = api.llama_batch_init(BATCH, 0, 1)
    rng = random.Random(1)

    def tokens(n):
        return [rng.randrange(1, n_vocab) for _ in range(n)]

    def feed(context, ids, position):
        for start in range(0, len(ids), BATCH):
            part = ids[start:start + BATCH]
            for i, token in enumerate(part):
                batch.token[i], batch.pos[i] = token, position + start + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = int(start + i == len(ids) - 1)
            batch.n_tokens = len(part)
            if api.llama_decode(context, batch):
                sys.exit("llama_decode failed")
        # Waits for the result.
        api.llama_get_logits_ith(context, batch.n_tokens - 1)
        return position + len(ids)

    def once(prompt, gen):
        params = with_fields(api.llama_context_default_params(), of_context)
        params.n_ctx = args.depth + prompt + gen + 64
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = args.threads
        context = api.llama_init_from_model(loaded, params)
        if not context:
            sys.exit("cannot make a context")
        position = feed(context, tokens(args.depth), 0) if args.depth else 0
        began = time.perf_counter()
        position = feed(context, tokens(prompt), position)
        prompted = time.perf_counter()
        for _ in range(gen):
            position = feed(context, tokens(1), position)
        ended = time.perf_counter()
        api.llama_free(context)
        return prompt / (prompted - began), gen / (ended - prompted)

    once(min(args.prompt, BATCH), min(args.gen, 8))  # warm-up
    prompt_tps, gen_tps = once(args.prompt, args.gen)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rss_mib = rss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return {"prompt_tps": prompt_tps, "gen_tps": gen_tps, "load_ms": load_ms,
            "rss_mib_max": rss_mib, "version": version(package)}


def with_fields(params, fields):
    """Sets fields of a C struct; one that this version lacks is an error, not a default."""
    known = {field[0] for field in params._fields_}
    for field, value in fields.items():
        if field not in known:
            sys.exit(f"{type(params).__name__} has no field {field}")
        setattr(params, field, value)
    return params


if __name__ == "__main__":
    main()
