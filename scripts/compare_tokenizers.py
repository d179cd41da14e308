#!/usr/bin/env python3
"""Compares teff's token ids with other implementations' on fuzzed texts.

    compare_tokenizers.py --teff target/release/teff MODEL.gguf ... [--cases 2000] [--seed 1]
    compare_tokenizers.py --teff target/release/teff MODEL.gguf=tokenizer.json MODEL.gguf=hf ...

A file alone is compared with llama.cpp (pip: llama-cpp-python), `FILE=tokenizer.json` with Hugging
Face's tokenizers (pip: tokenizers), `FILE=hf` with what those make of the file's own vocabulary
(pip: gguf). With `FILE.inp` and `FILE.out` beside it, as llama.cpp's own vocabularies have them,
those cases are checked too. Prints what differs, shortest text first.
"""

import argparse
import ctypes
import json
import pathlib
import random
import subprocess
import sys
import unicodedata

SEPARATOR = "\n__ggml_vocab_test__\n"
WORDS = (
    "the Hello WORLD it's You'LL don't 12345 3.14 1,000 x=1; /*c*/ <s> </s> <|im_end|> [MASK] über "
    "café naïve ñandú Straße İstanbul ﬁne Ⅷ ① ½ ²3 Привет мир שלום עולם مرحبا नमस्ते हिन्दी ภาษาไทย 日本語 "
    "漢字 カタカナ ｶﾀｶﾅ 한국어 각 🦙 👩‍👩‍👧 🇩🇪 🏽 Ａｂｃ ０１２ e\u0301 o\u0308 \u1e9b\u0323 ... --- '' \"q\" `a` $5 a_b "
    "#tag @me https://x.org/?a=b&c=%20 \\n {}[] «a» “b” ‘c’ …"
).split()
SPACES = [" ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u3000", "", ""]
CLASSES = ["L", "N", "P", "S", "Z", "M", "C"]


def characters():
    """Assigned characters by the first letter of their category, without surrogates."""
    known = {c: [] for c in CLASSES}
    for code in range(0x30000):
        category = unicodedata.category(chr(code))
        if category not in ("Cs", "Cn", "Co"):
            known[category[0]].append(chr(code))
    return known


def texts(n, seed):
    """Words, spaces, and characters of every class, mixed."""
    rng = random.Random(seed)
    known = characters()
    for _ in range(n):
        parts = []
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.55:
                parts.append(rng.choice(WORDS))
            elif kind < 0.7:
                parts.append(rng.choice(known[rng.choice(CLASSES)]))
            elif kind < 0.85:
                run = known[rng.choice(CLASSES[:5])]
                start = rng.randrange(len(run))
                parts.append("".join(rng.choice(run[start : start + 40]) for _ in range(rng.randint(1, 4))))
            else:
                parts.append("".join(chr(rng.randint(32, 126)) for _ in range(rng.randint(1, 8))))
            parts.append(rng.choice(SPACES))
        yield "".join(parts)


def teff_ids(teff, model, cases):
    lines = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in cases)
    command = [teff, "tokenize", "--json-lines", "-m", model]
    run = subprocess.run(command, input=lines.encode(), capture_output=True)
    if run.returncode:
        sys.exit(f"{model}: {run.stderr.decode().strip()}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def llama_ids(model, cases):
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    loaded = llama_cpp.llama_model_load_from_file(model.encode(), params)
    if not loaded:
        sys.exit(f"{model}: llama.cpp cannot load it")
    vocab = llama_cpp.llama_model_get_vocab(loaded)
    for text in cases:
        data = text.encode()
        room = 4 * len(data) + 16
        ids = (llama_cpp.llama_token * room)()
        n = llama_cpp.llama_tokenize(vocab, data, len(data), ids, room, False, False)
        yield list(ids[:n])


def hugging_face_ids(model, path, cases):
    import tokenizers

    own = path == "hf"
    tokenizer = hugging_face_of(model) if own else tokenizers.Tokenizer.from_file(path)
    for text in cases:
        yield tokenizer.encode(text, add_special_tokens=False).ids


def hugging_face_of(model):
    """Hugging Face's tokenizer with the file's vocabulary, put together as the models' own are."""
    import gguf
    import tokenizers as hf
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    fields = gguf.GGUFReader(model).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents() if "tokenizer.ggml." + key in fields else None
    kind, pre, tokens = get("model"), get("pre"), get("tokens")
    types = get("token_type") or [1] * len(tokens)
    special = [t for t, ty in zip(tokens, types) if ty == 3]
    added = [t for t, ty in zip(tokens, types) if ty == 4]
    if kind == "bert":
        spell = lambda t: t[1:] if t.startswith("▁") else t if t in special else "##" + t
        vocab = {spell(t): i for i, t in enumerate(tokens)}
        tokenizer = hf.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer
    split = lambda m: (m[: m.index(" ", 1)], m[m.index(" ", 1) + 1 :])
    vocab = {t: i for i, t in enumerate(tokens)}
    regex = lambda p: pre_tokenizers.Split(hf.Regex(p), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    llama3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    digits = pre_tokenizers.Digits(individual_digits=True)
    rows = {
        "gpt-2": (None, [gpt2]),
        "mpt": (normalizers.NFC(), [gpt2]),
        "olmo": (normalizers.NFC(), [gpt2]),
        "llama-bpe": (None, [regex(llama3), byte_level]),
        "qwen2": (normalizers.NFC(), [regex(llama3.replace("{1,3}", "")), byte_level]),
        "command-r": (normalizers.NFC(), [digits, gpt2]),
        "smollm": (None, [digits, gpt2]),
        "starcoder": (None, [digits, gpt2]),
        "refact": (None, [digits, gpt2]),
        "falcon": (
            None,
            [
                pre_tokenizers.Punctuation("contiguous"),
                gpt2,
                regex("[0-9][0-9][0-9]"),
            ],
        ),
    }
    row = rows.get(pre)
    if kind != "gpt2" or row is None:
        sys.exit(f"{model}: no recipe for Hugging Face's tokenizer ({kind}, {pre})")
    merges = [split(m) for m in get("merges")]
    tokenizer = hf.Tokenizer(models.BPE(vocab, merges, ignore_merges=pre == "llama-bpe"))
    if row[0]:
        tokenizer.normalizer = row[0]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(row[1])
    tokenizer.add_tokens([hf.AddedToken(t, normalized=False) for t in added])
    return tokenizer


def report(what, cases, ours, theirs, show):
    wrong = [(t, a, b) for t, a, b in zip(cases, ours, theirs, strict=True) if a != b]
    print(f"{what}: {len(cases) - len(wrong)} of {len(cases)} equal")
    for text, a, b in sorted(wrong, key=lambda case: len(case[0]))[:show]:
        print(f"  {text!r}\n    teff   {a}\n    theirs {b}")
    return len(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FILE[=tokenizer.json]")
    parser.add_argument("--teff", default="target/release/teff")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=5)
    args = parser.parse_args()
    cases = list(texts(args.cases, args.seed))
    wrong = 0
    for argument in args.models:
        model, _, json_path = argument.partition("=")
        ours = teff_ids(args.teff, model, cases)
        theirs = hugging_face_ids(model, json_path, cases) if json_path else llama_ids(model, cases)
        wrong += report(argument, cases, ours, list(theirs), args.show)
        inputs = pathlib.Path(model + ".inp")
        if inputs.exists():
            lines = pathlib.Path(model + ".out").read_text().split("\n")
            given = inputs.read_text().split(SEPARATOR)
            given = given[: len(given) - (given[-1] == "")]
            expected = [[int(i) for i in line.split()] for line in lines[: len(given)]]
            ids = teff_ids(args.teff, model, given)
            wrong += report(f"{inputs}", given, ids, expected, args.show)
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
