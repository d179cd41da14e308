#!/usr/bin/env python3
"""Run converted files in llama.cpp and compare its logits with transformers' own: a second opinion.

Every folder of DIR that has config.json, tokens.json and logits.f32 (tests/golden/hf, or a folder of
fixtures) is converted to F32 by `teff convert`, loaded by llama.cpp, and run on the same tokens with
caches in F32; teff runs the file, too. A row of the table says how far each is from transformers (NMSE,
the sum of squared differences over the sum of squares) and how many of the tokenizer's cases llama.cpp
cuts equally. GELU is a table of f16 in llama.cpp: 1e-7 is all that models with it can show.

llama.cpp comes in a Python package whose library has its C interface, such as
    pip install xllamacpp numpy
The parts of its structures that are used are checked against what it says its defaults are.

usage: scripts/compare_converted.py [--teff PROGRAM] [--library FILE] DIR...
Exits with 1 if a file that llama.cpp knows differs by more than --nmse (1e-6).
"""

import argparse
import ctypes
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Offsets in llama_context_params: counts first, the types of the caches behind two callbacks.
N_CTX, N_BATCH, N_UBATCH, N_SEQ_MAX, THREADS, FLASH, TYPE_K = 0, 4, 8, 12, 28, 52, 104
F32, F16, POOLING_NONE, POOLING = 0, 1, 0, 44
N_GPU_LAYERS = 16  # in llama_model_params
PIECES_MAX = 4096


class Params(ctypes.Structure):
    """More bytes than either structure has: larger arguments on the stack are cut by the callee."""
    _fields_ = [("bytes", ctypes.c_uint8 * 512)]

    def set(self, at, value):
        ctypes.c_int32.from_buffer(self, at).value = value

    def get(self, at):
        return ctypes.c_int32.from_buffer(self, at).value


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)),
                ("embd", ctypes.c_void_p), ("pos", ctypes.POINTER(ctypes.c_int32)),
                ("n_seq_id", ctypes.POINTER(ctypes.c_int32)), ("seq_id", ctypes.c_void_p),
                ("logits", ctypes.POINTER(ctypes.c_int8))]


class Llama:
    """The library, as far as it is used here."""

    def __init__(self, path):
        c, p = ctypes.CDLL(str(path)), ctypes.c_void_p
        i32, text = ctypes.c_int32, ctypes.c_char_p
        for name, result, arguments in [
            ("llama_backend_init", None, []), ("llama_model_default_params", Params, []),
            ("llama_context_default_params", Params, []),
            ("llama_model_load_from_file", p, [text, Params]),
            ("llama_init_from_model", p, [p, Params]), ("llama_model_free", None, [p]),
            ("llama_free", None, [p]), ("llama_model_get_vocab", p, [p]),
            ("llama_vocab_n_tokens", i32, [p]), ("llama_model_n_embd", i32, [p]),
            ("llama_decode", i32, [p, Batch]), ("llama_encode", i32, [p, Batch]),
            ("llama_get_logits", ctypes.POINTER(ctypes.c_float), [p]),
            ("llama_set_causal_attn", None, [p, ctypes.c_bool]),
            ("llama_get_embeddings_ith", ctypes.POINTER(ctypes.c_float), [p, i32]),
            ("llama_set_embeddings", None, [p, ctypes.c_bool]),
            ("llama_batch_init", Batch, [i32, i32, i32]),
            ("llama_tokenize", i32, [p, text, i32, ctypes.POINTER(i32), i32, ctypes.c_bool,
                                     ctypes.c_bool]),
            ("llama_log_set", None, [p, p]),
        ]:
            function = getattr(c, name)
            function.restype, function.argtypes = result, arguments
        self.c = c
        quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, text, p)
        self.quiet = quiet(lambda level, line, data: None)  # kept alive
        c.llama_log_set(ctypes.cast(self.quiet, p), None)
        c.llama_backend_init()
        defaults = c.llama_context_default_params()
        if [defaults.get(at) for at in (TYPE_K, TYPE_K + 4)] != [F16, F16]:
            sys.exit("this library lays its parameters out otherwise: see the offsets above")

    def load(self, path):
        params = self.c.llama_model_default_params()
        params.set(N_GPU_LAYERS, 0)
        return self.c.llama_model_load_from_file(str(path).encode(), params)

    def run(self, model, tokens, hidden):
        params = self.c.llama_context_default_params()
        for at, value in [(N_CTX, 256), (N_BATCH, 256), (N_UBATCH, 256), (N_SEQ_MAX, 1),
                          (THREADS, 2), (THREADS + 4, 2), (FLASH, 0), (TYPE_K, F32),
                          (TYPE_K + 4, F32)] + ([(POOLING, POOLING_NONE)] if hidden else []):
            params.set(at, value)
        context = self.c.llama_init_from_model(model, params)
        if not context:
            return None
        batch = self.c.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        sequences = ctypes.cast(batch.seq_id, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
            sequences[i][0], batch.logits[i] = 0, 1
        if hidden:
            self.c.llama_set_embeddings(context, True)
        result = None
        if (self.c.llama_encode if hidden else self.c.llama_decode)(context, batch) == 0:
            if hidden:
                n = self.c.llama_model_n_embd(model)
                rows = [self.c.llama_get_embeddings_ith(context, i) for i in range(len(tokens))]
                result = np.array([np.ctypeslib.as_array(row, (n,)) for row in rows])
            else:
                n = self.c.llama_vocab_n_tokens(self.c.llama_model_get_vocab(model))
                logits = self.c.llama_get_logits(context)
                result = np.ctypeslib.as_array(logits, (len(tokens), n)).copy()
        self.c.llama_free(context)
        return result

    def tokenize(self, model, text, special):
        ids = (ctypes.c_int32 * PIECES_MAX)()
        raw = text.encode()
        vocabulary = self.c.llama_model_get_vocab(model)
        n = self.c.llama_tokenize(vocabulary, raw, len(raw), ids, PIECES_MAX, False, special)
        return list(ids[:max(n, 0)])


def nmse(found, truth):
    found, truth = found.astype(np.float64).ravel(), truth.astype(np.float64).ravel()
    if found.shape != truth.shape:
        return float("nan")
    return ((found - truth) ** 2).sum() / (truth ** 2).sum()


def library():
    spec = importlib.util.find_spec("xllamacpp")
    folder = pathlib.Path(spec.origin).parent if spec else sys.exit("pip install xllamacpp")
    return next(folder.glob("*.so"))


def peers(args, path, tokens, hidden, texts):
    """llama.cpp's logits and the cases that it cuts equally, in a process of its own: it may abort."""
    code = "import sys, compare_converted as c; c.child(*sys.argv[1:])"
    with tempfile.NamedTemporaryFile(suffix=".npy") as out:
        job = json.dumps({"tokens": tokens, "hidden": hidden, "texts": texts})
        command = [sys.executable, "-c", code, str(args.library), str(path), out.name]
        done = subprocess.run(command, input=job, text=True, capture_output=True,
                              cwd=ROOT / "scripts")
        if done.returncode != 0:
            return None, (done.stderr.strip().splitlines() or ["aborted"])[-1][:60]
        return np.load(out.name), done.stdout.strip()


def child(path_of_library, path, out):
    job = json.load(sys.stdin)
    llama = Llama(path_of_library)
    model = llama.load(path) or sys.exit("llama.cpp does not load it")
    result = llama.run(model, job["tokens"], job["hidden"])
    if result is None:
        sys.exit("llama.cpp does not run it")
    np.save(out, result)
    equal = [llama.tokenize(model, text, special) == ids for text, special, ids in job["texts"]]
    print(f"{sum(equal)}/{len(equal)}")


def ours(args, path, tokens, hidden):
    if hidden:
        return None
    with tempfile.NamedTemporaryFile(suffix=".f32") as out:
        ids = ",".join(map(str, tokens))
        command = [args.teff, "logits", "-m", path, "--tokens", ids, "-o", out.name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return None
        return np.fromfile(out.name, "<f4")


def check(args, folder, scratch):
    facts = json.loads((folder / "tokens.json").read_text())
    hidden = (folder / "hidden.f32").exists()
    truth = np.fromfile(folder / ("hidden.f32" if hidden else "logits.f32"), "<f4")
    path = scratch / "model.gguf"
    command = [args.teff, "convert", folder, "-o", path, "--type", "f32"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return [folder.name, "-", "-", "-", done.stderr.strip().splitlines()[-1][:90]], False
    cases = json.loads((folder / "tokenizer_cases.json").read_text())
    cases = cases["cases"] if isinstance(cases, dict) else cases
    texts = [(case["text"], case.get("parse_special", False), case["ids"]) for case in cases]
    own = ours(args, path, facts["tokens"], hidden)
    peer, note = peers(args, path, facts["tokens"], hidden, texts)
    far = [nmse(x, truth) if x is not None else None for x in (own, peer)]
    cells = [f"{x:.1e}" if x is not None else "-" for x in far]
    wrong = far[1] is not None and not far[1] <= args.nmse
    return [folder.name, *cells, note if peer is not None else "-",
            "" if peer is not None else note], wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--teff", default=ROOT / "target/release/teff", type=pathlib.Path)
    parser.add_argument("--library", type=pathlib.Path)
    parser.add_argument("--nmse", type=float, default=1e-6)
    args = parser.parse_args()
    args.library = args.library or library()
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as scratch:
        for parent in args.folders:
            for folder in sorted(p for p in parent.iterdir() if (p / "tokens.json").exists()):
                row, wrong = check(args, folder, pathlib.Path(scratch))
                failed |= wrong
                print("  ".join(f"{cell:<{width}}" for cell, width in
                                zip(row, (18, 8, 10, 7, 60))).rstrip(), flush=True)
                rows.append(row)
    print(f"{len(rows)} folders; columns: NMSE of teff, of llama.cpp, equal tokenizations")
    sys.exit(failed)


if __name__ == "__main__":
    main()
