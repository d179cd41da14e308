#!/usr/bin/env python3
"""Writes tests/golden/dequant/: what the reference implementation of the quant types does.

    pip install libgguf==0.2.2 numpy
    python3 scripts/make_goldens.py

libgguf is ggml's C quantization code as a Python package. Inputs come from splitmix64 streams that
kernels/tests/block_golden.rs generates again, so only the answers are stored:

<type>.f32     dequantized values, little-endian f32, of the blocks of `block_bytes`
quantize.tsv   for each type, kind of row and importance matrix: the weighted RMS error of the
               reference's quantized rows, and the FNV-1a hash of their bytes
"""

import math
import pathlib

import libgguf
import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "dequant"

# name: (id, elements per block, bytes per block, offsets of half-precision scales, blocks stored)
TYPES = {
    "Q4_0": (2, 32, 18, [0], 32),
    "Q4_1": (3, 32, 20, [0, 2], 32),
    "Q5_0": (6, 32, 22, [0], 32),
    "Q5_1": (7, 32, 24, [0, 2], 32),
    "Q8_0": (8, 32, 34, [0], 32),
    "Q2_K": (10, 256, 84, [80, 82], 8),
    "Q3_K": (11, 256, 110, [108], 8),
    "Q4_K": (12, 256, 144, [0, 2], 8),
    "Q5_K": (13, 256, 176, [0, 2], 8),
    "Q6_K": (14, 256, 210, [208], 8),
    "IQ4_NL": (20, 32, 18, [0], 32),
    "IQ4_XS": (23, 256, 136, [0], 8),
    "MXFP4": (39, 32, 17, [], 32),
    "IQ2_XXS": (16, 256, 66, [0], 8),
    "IQ2_XS": (17, 256, 74, [0], 8),
    "IQ2_S": (22, 256, 82, [0], 8),
    "IQ3_XXS": (18, 256, 98, [0], 8),
    "IQ3_S": (21, 256, 110, [0], 8),
    "IQ1_S": (19, 256, 50, [0], 8),
    "IQ1_M": (29, 256, 56, [], 8),
    "TQ1_0": (34, 256, 54, [52], 8),
    "TQ2_0": (35, 256, 66, [64], 8),
    "NVFP4": (40, 64, 36, [], 16),
    "Q1_0": (41, 128, 18, [0], 8),
}

# Types that teff does not quantize to.
READ_ONLY = ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M"]

# Scales at the edges: zero, least denormal, largest, greatest negative denormal.
EDGE_SCALES = [0x0000, 0x0001, 0x7BFF, 0x83FF]

ROWS, COLS = 4, 1024
KINDS = ["gauss", "laplace", "outlier", "edge"]
MASK = (1 << 64) - 1


class Stream:
    """Steele, Lea and Flood's splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def uniform(self):
        """In [0, 1), a multiple of 2^-32."""
        return (self.next() >> 32) / (1 << 32)

    def gauss(self):
        """Sum of 12 uniforms: near enough, and exact in f64."""
        return sum(self.uniform() for _ in range(12)) - 6.0

    def laplace(self):
        magnitude = -math.log(1.0 - self.uniform())
        return magnitude if self.next() & 1 else -magnitude


def block_bytes(name):
    """Random blocks; the first four of eight have scales at the edges, two of those also codes."""
    ty, _, size, scales, count = TYPES[name]
    stream = Stream(ty)
    blocks = []
    for b in range(count):
        block = bytearray(stream.next() & 255 for _ in range(size))
        if b % 8 == 2:
            block = bytearray(b"\xff" * size)
        if b % 8 == 3:
            block = bytearray(size)
        if name == "IQ1_M":
            block[55] &= 0xBF  # the scale is neither infinity nor NaN
        for i, at in enumerate(scales):
            bits = int.from_bytes(block[at : at + 2], "little")
            if b % 8 < 4:
                bits = EDGE_SCALES[(b + i) % 4]
            elif bits & 0x7C00 == 0x7C00:
                bits &= 0xBFFF  # neither infinity nor NaN
            block[at : at + 2] = bits.to_bytes(2, "little")
        blocks.append(bytes(block))
    return b"".join(blocks)


def value(kind, stream, col):
    if kind == "gauss":
        return 0.02 * stream.gauss()
    if kind == "laplace":
        return 0.02 * stream.laplace()
    if kind == "outlier":
        outlier = stream.next() % 100 == 0
        return (0.4 if outlier else 0.02) * stream.gauss()
    # Runs of 64: zeros, one positive value, one negative, tiny values, one lone value, all positive,
    # all negative, large ones.
    run = col // 64 % 8
    u = stream.uniform()
    lone = 1.0 if col % 64 == 5 else 0.0
    return [0.0, 0.7, -0.7, 1e-6 * u, lone, 1.0 + u, -1.0 - u, 3e4 * (u - 0.5)][run]


def rows(kind):
    stream = Stream(1000 + KINDS.index(kind))
    values = [value(kind, stream, col) for _ in range(ROWS) for col in range(COLS)]
    return np.array(values, dtype=np.float32).reshape(ROWS, COLS)


def importance():
    stream = Stream(2000)
    values = [stream.gauss() for _ in range(COLS)]
    return np.array([g * g + 1e-3 for g in values], dtype=np.float32)


def fnv1a(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def dequantize(name, data, n_rows, n_cols):
    raw = libgguf.dequantize_rows_raw(TYPES[name][0], data, n_rows, n_cols)
    return np.frombuffer(raw, dtype="<f4").reshape(n_rows, n_cols)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, (_, length, _, _, count) in TYPES.items():
        values = dequantize(name, block_bytes(name), 1, length * count)
        (OUT / f"{name.lower()}.f32").write_bytes(values.tobytes())
    with open(OUT / "quantize.tsv", "w") as out:
        out.write("type\trow\timportance\trmse\tfnv1a\n")
        for kind in KINDS:
            x = rows(kind)
            for name, (ty, *_) in TYPES.items():
                if name in READ_ONLY:
                    continue
                for matrix in (None, importance()):
                    data = libgguf.quantize_rows(x, ty, matrix).tobytes()
                    error = (dequantize(name, data, ROWS, COLS).astype(np.float64) - x) ** 2
                    weights = np.ones(COLS) if matrix is None else matrix.astype(np.float64)
                    rmse = math.sqrt((error * weights).sum() / (ROWS * weights.sum()))
                    assert math.isfinite(rmse), f"{name}, {kind}: the reference's error is {rmse}"
                    uses = "no" if matrix is None else "yes"
                    out.write(f"{name}\t{kind}\t{uses}\t{rmse:.9e}\t{fnv1a(data):016x}\n")


if __name__ == "__main__":
    main()
