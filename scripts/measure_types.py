#!/usr/bin/env python3
"""Measure what a model loses in each type: size, divergence from the source, perplexity.

Each model is turned into F16 once (the source), which gives the importances of its columns on one
text and its answers on another. Then every mix is made with those importances, and so is a file for
each size wanted by --bits, whose types are chosen by what each tensor loses in them (and, with
--sensitivities, by how much that matters on the first text). All are compared with the source on the second text. teff does all of it; nothing else is needed.

Results are kept in RECORD (a line for each file, appended; lines that are there are not measured
again), and made into a table and a picture:
  src/quantize/README.md   the table, between its two marks
  src/quantize/types.svg   divergence against size

usage: scripts/measure_types.py --calibrate TEXT --text TEXT NAME=MODEL.gguf...
--draw makes the table and the picture of what is recorded, and measures nothing
"""

import argparse
import csv
import datetime
import hashlib
import html
import json
import math
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORD = ROOT / "benches/record/types.csv"
GUIDE = ROOT / "src/quantize/README.md"
PICTURE = ROOT / "src/quantize/types.svg"
MARKS = ("<!-- table: scripts/measure_types.py -->\n", "<!-- end of table -->\n")
TYPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_0", "Q4_K_M", "Q4_K_S", "IQ4_XS", "IQ4_NL", "Q4_0",
         "Q3_K_L", "Q3_K_M", "IQ3_M", "IQ3_XXS", "Q2_K", "IQ2_M"]


def main():
    args = parse_args()
    rows = measured(args, measure, RECORD)
    write_table(rows)
    PICTURE.write_text(picture(rows))
    print(f"{GUIDE}\n{PICTURE}")


def measured(args, measure, record):
    """The rows of a record, once `measure` has added those of the models, if it is to."""
    if not args.draw:
        for given in args.models:
            name, path = given.split("=", 1)
            measure(name, pathlib.Path(path), args)
    rows = recorded(record)
    if not rows:
        sys.exit(f"error: nothing is recorded in {record}")
    return rows


def parser_of(doc, calibrate):
    """A parser of models and texts."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="*", metavar="NAME=MODEL.gguf")
    p.add_argument("--teff", default=str(ROOT / "target/release/teff"), help="the program")
    p.add_argument("--calibrate", help=calibrate)
    p.add_argument("--text", help="text to measure with, another one")
    p.add_argument("--draw", action="store_true")
    return p


def checked(p):
    """Arguments that go together."""
    args = p.parse_args()
    if not args.draw and not (args.models and args.calibrate and args.text):
        p.error("NAME=MODEL.gguf, --calibrate and --text are needed")
    if any("=" not in model for model in args.models):
        p.error("models are NAME=MODEL.gguf")
    return args


def parse_args():
    p = parser_of(__doc__, "text for importances and sensitivities")
    p.add_argument("--calibrate-chunks", type=int, default=60, help="of 512 tokens")
    p.add_argument("--chunks", type=int, default=16, help="of 512 tokens, to measure with")
    p.add_argument("--types", default=",".join(TYPES), help="mixes, comma-separated")
    p.add_argument("--bits", default="", help="bits per weight to choose types for")
    p.add_argument("--sensitivities", action="store_true", help="measure them for --bits")
    p.add_argument("--work", default=str(ROOT / "target/types"), help="folder of the files")
    return checked(p)


# ------------------------------------------------------------------ the measuring side

def teff(args, *more):
    """What the program prints; progress goes to stderr."""
    done = subprocess.run([args.teff, *map(str, more)], stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, more))}: code {done.returncode}")
    return done.stdout


def measure(name, model, args):
    work = pathlib.Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    source, imatrix, logits = [work / f"{name}.{end}" for end in
                               ("f16.gguf", f"{args.calibrate_chunks}.imatrix.gguf",
                                f"{args.chunks}.logits")]
    if not source.exists():
        teff(args, "quantize", model, source, "--type", "F16", "--allow-requantize")
    if not imatrix.exists():
        teff(args, "imatrix", "-m", source, "-f", args.calibrate, "-o", imatrix,
             "--chunks", args.calibrate_chunks)
    if not logits.exists():
        teff(args, "perplexity", "-m", source, "-f", args.text, "--chunks", args.chunks,
             "--save-logits", logits)
    targets = [bits for bits in args.bits.split(",") if bits]
    wanted = [(t, ["--type", t]) for t in args.types.split(",") if t]
    more = ["--calibrate", args.calibrate] if args.sensitivities else []
    wanted += [(f"{bits} bits", ["--target-bpw", bits, *more]) for bits in targets]
    for label, how in wanted:
        if any(row["model"] == name and row["type"] == label for row in recorded()):
            continue
        out = work / f"{name}.{label.replace(' ', '')}.gguf"
        made = json.loads(teff(args, "quantize", source, out, *how, "--imatrix", imatrix, "--json"))
        found = json.loads(teff(args, "perplexity", "-m", out, "-f", args.text, "--chunks",
                                args.chunks, "--teacher-logits", logits, "--json"))
        record({
            "date": datetime.date.today().isoformat(),
            "version": teff(args, "--version").decode().strip(),
            "model": name, "type": label, "bytes": out.stat().st_size,
            "bits": f"{made['bits_per_weight']:.3f}",
            "kl_mean": f"{found['kl_mean']:.6f}", "kl_error": f"{found['kl_error']:.6f}",
            "kl_p99": f"{found['kl_p99']:.5f}", "top1": f"{found['top1']:.5f}",
            "perplexity": f"{found['perplexity']:.4f}",
            "source_perplexity": f"{found['teacher_perplexity']:.4f}",
            "tokens": found["tokens"], "calibration": text_id(args.calibrate),
            "text": text_id(args.text),
        })
        print(f"{name} {label}: {out.stat().st_size} bytes, divergence {found['kl_mean']:.5f}",
              file=sys.stderr, flush=True)
        out.unlink()


def text_id(path):
    """A text's name and the beginning of its hash."""
    path = pathlib.Path(path)
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def recorded(path=RECORD):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def record(row, path=RECORD):
    """Appends a row, whose keys are the columns in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


# ------------------------------------------------------------------ the telling side

def by_model(rows):
    models = {}
    for row in rows:
        models.setdefault(row["model"], []).append(row)
    for own in models.values():
        own.sort(key=lambda row: -int(row["bytes"]))
    return models


def is_target(row):
    return row["type"].endswith(" bits")


def shown_type(row):
    return f"`--target-bpw {row['type'].split()[0]}`" if is_target(row) else row["type"]


def write_table(rows):
    lines = []
    for model, own in by_model(rows).items():
        first = own[0]
        lines += [
            f"### {model}", "",
            f"Source: F16, perplexity {float(first['source_perplexity']):.2f}; "
            f"{first['tokens']} predictions of `{first['text']}`, calibrated on "
            f"`{first['calibration']}`.", "",
            "| type | size, MB | bits per weight | divergence, mean | 99 % | same top token "
            "| perplexity |",
            "|---|---|---|---|---|---|---|"]
        for row in own:
            lines.append(
                f"| {shown_type(row)} | {int(row['bytes']) / 1e6:.1f} | {float(row['bits']):.2f} "
                f"| {float(row['kl_mean']):.4f} ± {float(row['kl_error']):.4f} "
                f"| {float(row['kl_p99']):.3f} | {100 * float(row['top1']):.1f} % "
                f"| {float(row['perplexity']):.2f} |")
        lines.append("")
    fill(MARKS, lines)


def fill(marks, lines):
    """Puts lines into the guide, between two marks."""
    before, rest = GUIDE.read_text().split(marks[0])
    after = rest.split(marks[1])[1]
    GUIDE.write_text(before + marks[0] + "\n" + "\n".join(lines) + "\n" + marks[1] + after)


STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .quiet { fill: #57606a } .small { font-size: 10.5px } .title { font-weight: 600; font-size: 14px }
  .grid { stroke: #d0d7de; stroke-width: 1 } .axis { stroke: #57606a; stroke-width: 1 }
  .named { fill: #2f6fb5 } .target { fill: #c2570c } .line { stroke: #c2570c; fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .quiet { fill: #9da7b1 } .grid { stroke: #30363d }
    .axis { stroke: #9da7b1 } .named { fill: #79b8ff } .target { fill: #ffa657 }
    .line { stroke: #ffa657 }
  }
"""
WIDTH, PANEL, TOP, HEIGHT, LEFT, GAP = 960, 405, 62, 380, 62, 46


def picture(rows):
    models = by_model(rows)
    divergences = [float(row["kl_mean"]) for row in rows]
    low = math.floor(math.log10(min(divergences)) * 2) / 2
    high = math.ceil(math.log10(max(divergences)) * 2) / 2

    def y(kl):
        return TOP + HEIGHT * (high - math.log10(kl)) / (high - low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + HEIGHT + 56}" '
           f'role="img" aria-label="Divergence from the source against size, for each type">',
           f"<style>{STYLE}</style>",
           f'<circle class="named" cx="{LEFT + 6}" cy="18" r="4"/>'
           f'<text x="{LEFT + 16}" y="22">named mixes</text>'
           f'<path class="target" d="{diamond(LEFT + 116, 18)}"/>'
           f'<text x="{LEFT + 127}" y="22">types chosen for a size (--target-bpw)</text>',
           f'<text class="quiet" transform="translate(14 {TOP + HEIGHT / 2}) rotate(-90)" '
           f'text-anchor="middle">mean divergence from the source, nats (log)</text>']
    for number, (model, own) in enumerate(models.items()):
        left = LEFT + number * (PANEL + GAP)
        out += panel(model, own, left, y, low, high, with_labels=number == 0)
    return "\n".join(out) + "\n</svg>\n"


def diamond(x, y, r=5.5):
    return f"M{x:.1f} {y - r:.1f}l{r} {r}l{-r} {r}l{-r} {-r}z"


def ticks(low, high):
    """Values 1, 2 and 5 of each decade."""
    for decade in range(math.floor(low), math.ceil(high) + 1):
        for digit in (1, 2, 5):
            value = digit * 10 ** decade
            if low - 1e-9 <= math.log10(value) <= high + 1e-9:
                yield value


def panel(model, rows, left, y, low, high, with_labels):
    sizes = [int(row["bytes"]) / 1e6 for row in rows]
    step = next(s for s in (5, 10, 20, 50, 100, 200, 500, 1000, 10**6)
                if (max(sizes) - min(sizes)) / s <= 8)
    first, last = math.floor(min(sizes) / step) * step, math.ceil(max(sizes) / step) * step

    def x(size):
        return left + PANEL * (size - first) / max(last - first, 1)

    out = [f'<text class="title" x="{left}" y="{TOP - 12}">{html.escape(model)}</text>']
    for value in ticks(low, high):
        out.append(f'<path class="grid" d="M{left} {y(value):.1f}h{PANEL}"/>')
        if with_labels:
            out.append(f'<text class="quiet" x="{left - 8}" y="{y(value) + 4:.1f}" '
                       f'text-anchor="end">{value:g}</text>')
    for size in range(first, last + 1, step):
        out.append(f'<path class="axis" d="M{x(size):.1f} {TOP + HEIGHT}v5"/>'
                   f'<text class="quiet" x="{x(size):.1f}" y="{TOP + HEIGHT + 20}" '
                   f'text-anchor="middle">{size}</text>')
    out.append(f'<path class="axis" d="M{left} {TOP + HEIGHT}h{PANEL}"/>'
               f'<text class="quiet" x="{left + PANEL / 2}" y="{TOP + HEIGHT + 42}" '
               f'text-anchor="middle">file, MB</text>')
    points = [(x(size), y(float(row["kl_mean"])), row) for size, row in zip(sizes, rows)]
    targets = [(px, py) for px, py, row in points if is_target(row)]
    if len(targets) > 1:
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in targets)
        out.append(f'<polyline class="line" points="{line}"/>')
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py, _ in points]
    taken += [box for a, b in zip(targets, targets[1:]) for box in along(a, b)]
    for px, py, row in points:
        if is_target(row):
            out.append(f'<path class="target" d="{diamond(px, py)}"/>')
        else:
            out.append(f'<circle class="named" cx="{px:.1f}" cy="{py:.1f}" r="4"/>')
            out.append(label(row["type"], px, py, taken, left))
    return out


def along(a, b, n=12):
    """Boxes that cover a line, which labels keep off."""
    for i in range(n + 1):
        px, py = (a[j] + (b[j] - a[j]) * i / n for j in (0, 1))
        yield (px - 3, py - 3, px + 3, py + 3)


def label(text, px, py, taken, left):
    """A label at the first place around a point where there is nothing yet."""
    w, h = 6.3 * len(text), 11
    places = [(px + d, py + dy, "start") for d in (8, 12, 20) for dy in (4, -6, 14, -14, 22, -24)]
    places += [(px - d, py + dy, "end") for d in (8, 12, 20) for dy in (4, -6, 14, -14, 22, -24)]

    def box(place):
        lx, ly, anchor = place
        x0 = lx if anchor == "start" else lx - w
        return (x0, ly - h + 1, x0 + w, ly + 2)

    def is_free(place):
        a = box(place)
        inside = left <= a[0] and a[2] <= left + PANEL + 30 and TOP - 4 <= a[1] < TOP + HEIGHT - h
        return inside and not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
                                  for b in taken)

    place = next((place for place in places if is_free(place)), places[0])
    taken.append(box(place))
    lx, ly, anchor = place
    return (f'<text class="small" x="{lx:.1f}" y="{ly:.1f}" text-anchor="{anchor}">'
            f"{html.escape(text)}</text>")


if __name__ == "__main__":
    main()
