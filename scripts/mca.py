#!/usr/bin/env python3
"""What ARM kernels can reach, by static analysis of their inner loops.

Builds the kernels for aarch64 as assembly, finds the loop of each tile of the prefill and of each
decoding kernel, and asks llvm-mca how many cycles it takes on some cores, with operands in the first
cache. Prints two tables in Markdown. Prefill: multiply-accumulates per cycle, and what part that is
of the model's own peak, independent multiplications of the same kind and nothing else. Decoding of
one token: bytes of weights per cycle, which is GB/s for each GHz of a core.

    scripts/mca.py                      the tables
    scripts/mca.py --asm FILE.s         of assembly that is there already
    scripts/mca.py --show tile_32 Sdot  the loops of the tiles themselves

Needs the Rust target aarch64-unknown-linux-gnu (rustup target add; no linker) and llvm-mca 16 or
later (Debian: llvm-19), the first with a model of Neoverse N1, which is Cortex-A76's core.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = "aarch64-unknown-linux-gnu"

# Core, LLVM's name of the nearest model, the levels it runs.
CORES = [
    ("Cortex-A53", "cortex-a53", ["Widening"]),
    ("Cortex-A72", "cortex-a72", ["Widening"]),
    ("Cortex-A76", "neoverse-n1", ["Sdot"]),
    ("Apple M1", "apple-m1", ["Sdot"]),
    ("Neoverse V1", "neoverse-v1", ["Smmla"]),
    ("Neoverse N2", "neoverse-n2", ["Smmla"]),
]
ROWS = 4  # of most tiles, and in flight in decoding
TOKENS = 8  # of a tile
PARTS = {"Widening": 2, "Sdot": 1, "Smmla": 1}
LEVELS = {"Widening": "neon", "Sdot": "neon_dot", "Smmla": "neon_i8mm"}

# Products per instruction, and independent ones for the peak.
MACS = {"smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8, "sdot": 16, "smmla": 32}
PEAKS = {
    "Widening": [f"smlal{h} v{i}.8h, v30.{n}b, v31.{n}b" for h, n in (("", 8), ("2", 16)) for i in range(16)],
    "Sdot": [f"sdot v{i}.4s, v30.16b, v31.4b[1]" for i in range(16)],
    "Smmla": [f"smmla v{i}.4s, v30.16b, v31.16b" for i in range(16)],
}

# Tiles by their generic arguments, with the types that use them.
TILES = [
    ("tile_32", {"group": 32, "min": 0, "small": 1}, "Q4_0, Q5_0, MXFP4"),
    ("tile_32", {"group": 32, "min": 1, "small": 1}, "Q4_1"),
    ("tile_32", {"group": 32, "min": 0, "small": 0}, "Q8_0, IQ4_NL"),
    ("tile_32", {"group": 16, "min": 0, "small": 1}, "Q1_0, Q2_0, NVFP4"),
    ("tile_256", {"group": 32, "min": 1, "small": 1}, "Q4_K"),
    ("tile_256", {"group": 32, "min": 1, "small": 0}, "Q5_K"),
    ("tile_256", {"group": 16, "min": 0, "small": 1}, "Q6_K, Q3_K, IQ1_M"),
    ("tile_256", {"group": 16, "min": 0, "small": 0}, "IQ2_XS, IQ2_S"),
    ("tile_256", {"group": 16, "min": 1, "small": 1}, "Q2_K"),
    ("tile_256", {"group": 32, "min": 0, "small": 1}, "IQ1_S, IQ3_S, TQ1_0, TQ2_0"),
    ("tile_256", {"group": 32, "min": 0, "small": 0}, "IQ4_XS, IQ2_XXS, IQ3_XXS"),
]
# Types of decoding: elements and bytes of a block.
DECODED = {
    "Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22),
    "Q4K": (256, 144), "Q5K": (256, 176), "Q6K": (256, 210),
    "Q1_0": (128, 18), "Q2_0": (64, 18), "NVFP4": (64, 36), "TQ2_0": (256, 66),
    "IQ1S": (256, 50), "IQ1M": (256, 56), "IQ2XXS": (256, 66), "IQ2XS": (256, 74), "IQ2S": (256, 82),
    "IQ3XXS": (256, 98), "IQ3S": (256, 110),
}


def assembly():
    command = ["cargo", "rustc", "--release", "-p", "teff-kernels", "--lib", "--target", TARGET, "--"]
    command += ["--emit=asm", "-Csymbol-mangling-version=v0", "-Ccodegen-units=1"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    deps = ROOT / "target" / TARGET / "release" / "deps"
    return max(deps.glob("teff_kernels-*.s"), key=lambda path: path.stat().st_mtime)


def functions(path):
    """Name to lines: instructions and labels."""
    found, name = {}, None
    for line in path.read_text().splitlines():
        line = line.split("//")[0].strip()
        if re.fullmatch(r"_R\w+:", line):
            name = line[:-1]
            found[name] = []
        elif line.startswith(".cfi_endproc"):
            name = None
        elif name and line and (line[0] != "." or re.fullmatch(r"\.L\w+:", line)):
            found[name].append(line)
    return found


class Loop:
    """Lines from a label to the branch back; inner loops are single items of the body."""

    def __init__(self, body):
        self.body = body

    def count(self, opcodes):
        return sum(item.count(opcodes) if isinstance(item, Loop) else item.split()[0] in opcodes for item in self.body)

    def macs(self):
        return sum(item.macs() if isinstance(item, Loop) else MACS.get(item.split()[0], 0) for item in self.body)

    def inner(self):
        return [item for item in self.body if isinstance(item, Loop)]

    def all(self):
        for item in self.inner():
            yield item
            yield from item.all()

    def trace(self, trips):
        """Instructions of one iteration, inner loops written out."""
        out = []
        for item in self.body:
            if isinstance(item, Loop):
                out += item.trace(trips) * trips(item)
            elif not item.endswith(":"):
                out.append(item)
        return out


def loops(lines):
    """The whole function as a loop of its loops."""
    while True:
        labels, body, best = {}, lines, None
        for i, line in enumerate(body):
            if isinstance(line, Loop):
                continue
            if line.endswith(":"):
                labels[line[:-1]] = i
            elif (target := line.replace(",", " ").split()[-1]) in labels and line[0] in "bct":
                best = labels[target], i
                break
        if not best:
            return Loop(lines)
        first, last = best
        lines = body[:first] + [Loop([l for l in body[first + 1 : last + 1]])] + body[last + 1 :]


def cycles(instructions, model, iterations=50):
    text = "\n".join(re.sub(r"\.L\w+", "0", i) if i[0] in "bct" else i for i in instructions)
    command = [MCA, "-march=aarch64", f"-mcpu={model}", "-mattr=+dotprod,+i8mm,+fullfp16"]
    command += [f"-iterations={iterations}", "-instruction-info=0", "-resource-pressure=0", "-"]
    run = subprocess.run(command, input=text + "\n", capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"llvm-mca: {run.stderr}")
    return int(re.search(r"Total Cycles:\s+(\d+)", run.stdout)[1]) / iterations


def arguments_of(name):
    """Level, tile and generic arguments of a mangled name (RFC 2603), where `KB` is as the last one."""
    found = re.search(r"(Widening|Sdot|Smmla)N.*(tile_32|tile_256)4tile((?:Kj[0-9a-f]+_|Kb[01]_|KB\w*?_)+)E", name)
    if not found:
        return None
    values = []
    for number, flag in re.findall(r"Kj([0-9a-f]+)_|Kb([01])_|KB\w*?_", found[3]):
        values.append(int(number, 16) if number else int(flag) if flag else values[-1])
    return found[1], found[2], dict(zip(["group", "min", "small"], values))


def rows_of(level, name, arguments):
    return 6 if (level, name, arguments["group"]) == ("Smmla", "tile_256", 32) else ROWS


def tile_of(found, level, name, arguments):
    """The loops over the blocks of a tile: of its parts, one after the other."""

    def matches(mangled):
        if rows_of(level, name, arguments) == 6:
            return f"8six_rowsKj0_Kb{arguments['min']}_E" in mangled
        return arguments_of(mangled) == (level, name, arguments)

    lines = next((lines for mangled, lines in found.items() if matches(mangled)), None)
    return Loop([loop for loop in loops(lines).inner() if loop.macs()]) if lines else None


def trips_of(name, arguments, level):
    """How often the loops inside a super-block's run: eight groups of 32, or minimums."""

    def trips(loop):
        if name == "tile_32" or any(inner.macs() for inner in loop.inner()):
            return 1
        if loop.macs():
            return 8
        registers = rows_of(level, name, arguments) * TOKENS // 4 // PARTS[level]
        return 256 // arguments["group"] * registers // loop.count(["fmla"])

    return trips


def decoding(found, level, ty):
    """The instructions that four rows take for a block with one token."""
    elements, _ = DECODED[ty]
    kernel = elements if elements in (32, 256) else 16
    name = rf"{LEVELS[level]}\d+matmul_{kernel}(?:6kernel)?N.*Block{ty}E"
    # Without a feature the kernel is part of its entry.
    lines = max((lines for n, lines in found.items() if re.search(name, n)), key=len)
    whole = loops(lines)
    parent = {id(inner): loop for loop in [whole, *whole.all()] for inner in loop.inner()}
    leaves = [loop for loop in whole.all() if loop.macs() and not any(l.macs() for l in loop.inner())]
    leaf = min(leaves, key=Loop.macs)
    times, rest = divmod(ROWS * elements, leaf.macs())
    if rest or times > 8:
        sys.exit(f"{leaf.macs()} products of {ty} at {level}: the loops are not understood")
    return (leaf if times == 1 else parent[id(leaf)]).trace(lambda loop: times if loop.macs() else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asm", type=pathlib.Path)
    parser.add_argument("--show", nargs=2, metavar=("TILE", "DOT"))
    options = parser.parse_args()
    found = functions(options.asm or assembly())
    if options.show:
        for name, arguments, types in TILES:
            if name == options.show[0] and (loop := tile_of(found, options.show[1], name, arguments)):
                print(f"// {types}", *loop.trace(lambda _: 1), sep="\n")
        return

    version = re.search(r"LLVM version (\S+)", subprocess.run([MCA, "--version"], capture_output=True, text=True).stdout)
    columns = [(core, model, level) for core, model, levels in CORES for level in levels]
    names = " | ".join(f"{core} `{LEVELS[level]}`" for core, _, level in columns)
    print(f"By llvm-mca {version[1]}, models", ", ".join(f"`{model}`" for _, model, _ in CORES) + ".\n")

    print(f"| Prefill, MAC/cycle | {names} |\n|---|" + "---:|" * len(columns))
    peaks = []
    for _, model, level in columns:
        macs = sum(MACS[i.split()[0]] for i in PEAKS[level])
        peaks.append(macs / cycles(PEAKS[level], model, 500))
    print("| peak |", " | ".join(f"{peak:.1f}" for peak in peaks), "|")
    for name, arguments, types in TILES:
        row = []
        for (_, model, level), peak in zip(columns, peaks):
            # A level that makes no difference between sizes of codes has one of both tiles.
            either = [arguments, {**arguments, "small": 1 - arguments["small"]}]
            loop = next(loop for a in either if (loop := tile_of(found, level, name, a)))
            trace = loop.trace(trips_of(name, arguments, level))
            macs = sum(MACS.get(i.split()[0], 0) for i in trace)
            if macs != rows_of(level, name, arguments) * TOKENS * int(name.split("_")[1]):
                sys.exit(f"{macs} products in a block of {name} of {level}: the loops are not understood")
            rate = macs / cycles(trace, model)
            row.append(f"{rate:.1f} ({100 * rate / peak:.0f} %)")
        print(f"| {types} |", " | ".join(row), "|")

    print(f"\n| Decoding, bytes/cycle | {names} |\n|---|" + "---:|" * len(columns))
    for ty, (_, block_bytes) in DECODED.items():
        row = []
        for _, model, level in columns:
            row.append(f"{ROWS * block_bytes / cycles(decoding(found, level, ty), model):.2f}")
        print(f"| {re.sub(r'(?<=[1-6])(?=[KMSX])', '_', ty)} |", " | ".join(row), "|")


MCA = next((m for m in [*(f"llvm-mca-{v}" for v in range(30, 15, -1)), "llvm-mca"] if shutil.which(m)), None)
if __name__ == "__main__":
    if not MCA:
        sys.exit("no llvm-mca here")
    main()
