#!/usr/bin/env python3
"""Write a llama or gemma3 model that computes the same, with the columns of its weights in another order.

A file that was quantized holds weights on a grid: in each block of 32 neighbours a few levels at one distance. Types
with such blocks find the grid again and lose next to nothing, which says little about a model of floats. The
order of the residual stream, of an expansion's units and of a value head's parts is free: drawn anew, neighbours
come from many blocks of the old file and lie on no grid, while every function of the model is as before.

usage: scripts/shuffle_columns.py [--widen N] MODEL-f16.gguf OUT.gguf     needs: pip install gguf numpy
MODEL's tensors are floats: teff quantize MODEL OUT --type F16

--widen 256 appends columns of zeros until all rows are multiples of 256, so that types with blocks of 256 apply: to
the residual stream, whose norms are scaled for it, and to heads' outputs, as heads of zeros in each group (llama only).
"""

import argparse
import math
import sys

import gguf
import numpy as np


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--widen", type=int, metavar="N")
    p.add_argument("source", metavar="MODEL-f16.gguf")
    p.add_argument("target", metavar="OUT.gguf")
    args = p.parse_args()
    source, target = args.source, args.target
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    if arch not in ("llama", "gemma3"):
        sys.exit(f"error: {source}: architecture {arch}, only llama and gemma3 are known")
    if args.widen and arch != "llama":
        sys.exit(f"error: {source}: architecture {arch}, only llama is widened")
    writer = gguf.GGUFWriter(target, arch)
    orders = Orders(reader, arch)
    wider = Wider(reader, arch, args.widen) if args.widen else None
    copy_metadata(reader, writer, wider.metadata if wider else {})
    for tensor in reader.tensors:
        data = orders.applied(tensor.name, np.array(tensor.data))
        writer.add_tensor(tensor.name, wider.applied(tensor.name, data) if wider else data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def copy_metadata(reader, writer, replaced):
    for key, (value, kind) in replaced.items():
        writer.add_key_value(key, value, kind)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in replaced:
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])


class Orders:
    """Orders that are drawn: of the stream, and in each layer of the expansion and of the values."""

    def __init__(self, reader, arch):
        def number(key):
            return int(reader.fields[f"{arch}.{key}"].contents())

        self.draw = np.random.default_rng(1)
        self.stream = self.draw.permutation(number("embedding_length"))
        self.n_head = number("attention.head_count")
        self.n_head_kv = number("attention.head_count_kv")
        self.by_layer = {}
        for tensor in reader.tensors:
            layer, _, part = tensor.name.removeprefix("blk.").partition(".")
            if part == "ffn_up.weight":
                self.by_layer[layer, "ffn"] = self.draw.permutation(int(tensor.shape[1]))
            elif part == "attn_v.weight":
                self.by_layer[layer, "value"] = self.values(int(tensor.shape[1]))

    def values(self, n_rows):
        """An order in each head of keys and values."""
        size = n_rows // self.n_head_kv
        return np.stack([self.draw.permutation(size) for _ in range(self.n_head_kv)])

    def applied(self, name, data):
        layer, _, part = name.removeprefix("blk.").partition(".")
        rows = columns = None
        if part in ("attn_norm.weight", "ffn_norm.weight", "post_attention_norm.weight",
                    "post_ffw_norm.weight") or name == "output_norm.weight":
            return data[self.stream]
        if data.ndim == 1:
            return data  # of heads or of positions
        if part in ("attn_q.weight", "attn_k.weight") or name in ("token_embd.weight",
                                                                  "output.weight"):
            columns = self.stream
        elif part == "attn_v.weight":
            columns, rows = self.stream, self.of_heads(layer, 1)
        elif part == "attn_output.weight":
            columns, rows = self.of_heads(layer, self.n_head // self.n_head_kv), self.stream
        elif part in ("ffn_gate.weight", "ffn_up.weight"):
            columns, rows = self.stream, self.by_layer[layer, "ffn"]
        elif part == "ffn_down.weight":
            columns, rows = self.by_layer[layer, "ffn"], self.stream
        else:
            sys.exit(f"error: {name}: unknown tensor")
        data = data[:, columns]
        return np.ascontiguousarray(data if rows is None else data[rows])

    def of_heads(self, layer, n_each):
        """The values' order for heads that share those of a key-value head, `n_each` of them."""
        orders = np.repeat(self.by_layer[layer, "value"], n_each, axis=0)
        size = orders.shape[1]
        return (orders + size * np.arange(len(orders))[:, None]).ravel()


class Wider:
    """Columns of zeros behind those of the stream, and heads of zeros behind those of each group."""

    def __init__(self, reader, arch, multiple):
        def value(key):
            return reader.fields[f"{arch}.{key}"].contents()

        self.width, n_head, self.n_head_kv = (
            value(key) for key in ("embedding_length", "attention.head_count", "attention.head_count_kv"))
        self.size = self.width // n_head
        self.each = n_head // self.n_head_kv
        step = multiple // math.gcd(multiple, self.size * self.n_head_kv)
        self.each_wide = -(-self.each // step) * step
        self.wide = -(-self.width // multiple) * multiple
        # A norm divides by the root of the mean square, which zeros lower.
        self.share = self.width / self.wide
        count, real = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32
        epsilon = "attention.layer_norm_rms_epsilon"
        self.metadata = {f"{arch}.{key}": entry for key, entry in {
            "embedding_length": (self.wide, count),
            "attention.head_count": (self.each_wide * self.n_head_kv, count),
            "attention.key_length": (self.size, count),
            "attention.value_length": (self.size, count),
            epsilon: (value(epsilon) * self.share, real),
        }.items()}

    def applied(self, name, data):
        part = name.removeprefix("blk.").partition(".")[2]
        if data.ndim == 1:
            return np.pad(data * math.sqrt(self.share), (0, self.wide - self.width)).astype(data.dtype)
        if part == "attn_q.weight":
            data = self.with_heads(data)
        if part == "attn_output.weight":
            data = self.with_heads(data.T).T
        if part in ("attn_output.weight", "ffn_down.weight"):
            data = np.pad(data, ((0, self.wide - self.width), (0, 0)))
        else:
            data = np.pad(data, ((0, 0), (0, self.wide - self.width)))
        return np.ascontiguousarray(data)

    def with_heads(self, rows):
        """Rows of heads, with those of zeros behind each group."""
        groups = rows.reshape(self.n_head_kv, self.each, self.size, -1)
        groups = np.pad(groups, ((0, 0), (0, self.each_wide - self.each), (0, 0), (0, 0)))
        return groups.reshape(-1, rows.shape[1])


if __name__ == "__main__":
    main()
