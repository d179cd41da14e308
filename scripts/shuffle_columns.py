#!/usr/bin/env python3
"""Write a llama or gemma3 model that computes the same, with the columns of its weights in another order.

A file that was quantized holds weights on a grid: in each block of 32 neighbours a few levels at one distance. Types
with such blocks find the grid again and lose next to nothing, which says little about a model of floats. The
order of the residual stream, of an expansion's units and of a value head's parts is free: drawn anew, neighbours
come from many blocks of the old file and lie on no grid, while every function of the model is as before.

usage: scripts/shuffle_columns.py MODEL-f16.gguf OUT.gguf     needs: pip install gguf numpy
MODEL's tensors are floats: teff quantize MODEL OUT --type F16
"""

import sys

import gguf
import numpy as np


def main():
    source, target = sys.argv[1:3]
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    if arch not in ("llama", "gemma3"):
        sys.exit(f"error: {source}: architecture {arch}, only llama and gemma3 are known")
    writer = gguf.GGUFWriter(target, arch)
    copy_metadata(reader, writer)
    orders = Orders(reader, arch)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, orders.applied(tensor.name, np.array(tensor.data)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def copy_metadata(reader, writer):
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
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


if __name__ == "__main__":
    main()
