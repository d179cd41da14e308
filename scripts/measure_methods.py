#!/usr/bin/env python3
"""Measure what each quantizing method gains: divergence from the source, CPU time and memory, for mixes of some bits.

Of each model (F16 or F32, not quantized) every mix is made by every method, `search` with the importances of the
calibration text, the others at the inputs that it gives, and compared with the source on another text.

Results are kept in RECORD (a line for each file, appended; lines that are there are not measured again), and made
into a table and a picture:
  src/quantize/README.md    the table, between its two marks
  src/quantize/methods.svg  divergence of each method as a share of that of `search`

usage: scripts/measure_methods.py --calibrate TEXT --text TEXT NAME=MODEL.gguf...
--draw makes the table and the picture of what is recorded, and measures nothing
"""

import datetime
import html
import json
import os
import pathlib
import subprocess
import sys

from measure_types import (
    GUIDE, ROOT, STYLE, by_model, checked, fill, measured, parser_of, record, recorded, teff, text_id)

RECORD = ROOT / "benches/record/methods.csv"
PICTURE = ROOT / "src/quantize/methods.svg"
MARKS = ("<!-- table: scripts/measure_methods.py -->\n", "<!-- end of table of methods -->\n")
TYPES = ["Q4_K_M", "Q3_K_M", "Q2_K"]
METHODS = ["search", "refit", "gptq", "gptq+refit", "awq", "awq+gptq+refit"]


def main():
    args = parse_args()
    rows = measured(args, measure, RECORD)
    write_table(rows)
    PICTURE.write_text(picture(rows))
    print(f"{GUIDE}\n{PICTURE}")


def parse_args():
    p = parser_of(__doc__, "text for importances and inputs")
    p.add_argument("--calibrate-chunks", type=int, default=8, help="of 512 tokens, for methods")
    p.add_argument("--imatrix-chunks", type=int, default=60, help="of 512 tokens, for `search`")
    p.add_argument("--chunks", type=int, default=8, help="of 512 tokens, to measure with")
    p.add_argument("--types", default=",".join(TYPES), help="mixes, comma-separated")
    p.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    p.add_argument("--work", default=str(ROOT / "target/methods"), help="folder of the files")
    return checked(p)


# ------------------------------------------------------------------ the measuring side

def measure(name, source, args):
    work = pathlib.Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    imatrix, logits = work / f"{name}.imatrix.gguf", work / f"{name}.logits"
    if not imatrix.exists():
        teff(args, "imatrix", "-m", source, "-f", args.calibrate, "-o", imatrix, "--chunks", args.imatrix_chunks)
    if not logits.exists():
        teff(args, "perplexity", "-m", source, "-f", args.text, "--chunks", args.chunks, "--save-logits", logits)
    for ty in args.types.split(","):
        for method in args.methods.split(","):
            if any((row["model"], row["type"], row["method"]) == (name, ty, method) for row in recorded(RECORD)):
                continue
            out = work / f"{name}.{ty}.{method}.gguf"
            how = ["--imatrix", imatrix] if method == "search" else [
                "--method", method, "--calibrate", args.calibrate, "--calibrate-chunks", args.calibrate_chunks]
            seconds, mib = run(args, "quantize", source, out, "--type", ty, *how)
            found = json.loads(teff(args, "perplexity", "-m", out, "-f", args.text, "--chunks", args.chunks,
                                    "--teacher-logits", logits, "--json"))
            record({
                "date": datetime.date.today().isoformat(), "version": teff(args, "--version").decode().strip(),
                "model": name, "type": ty, "method": method, "bytes": out.stat().st_size,
                "kl_mean": f"{found['kl_mean']:.6f}", "kl_error": f"{found['kl_error']:.6f}",
                "top1": f"{found['top1']:.5f}", "perplexity": f"{found['perplexity']:.4f}",
                "source_perplexity": f"{found['teacher_perplexity']:.4f}", "cpu_seconds": f"{seconds:.0f}",
                "memory_mib": f"{mib:.0f}", "tokens": found["tokens"],
                "calibration": text_id(args.calibrate), "text": text_id(args.text),
            }, RECORD)
            print(f"{name} {ty} {method}: divergence {found['kl_mean']:.5f}, {seconds:.0f} s", file=sys.stderr, flush=True)
            out.unlink()


def run(args, *more):
    """Seconds of CPUs and MiB of memory that a run of the program takes, at most."""
    child = subprocess.Popen([args.teff, *map(str, more)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"error: {' '.join(map(str, more))}: status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


# ------------------------------------------------------------------ the telling side

def by_type(rows):
    types = {}
    for row in rows:
        types.setdefault(row["type"], {})[row["method"]] = row
    return types


def share(own, method):
    """Divergence of a method as a share of that of `search`."""
    return float(own[method]["kl_mean"]) / float(own["search"]["kl_mean"]) if "search" in own else float("nan")


def write_table(rows):
    lines = []
    for model, of_model in by_model(rows).items():
        first = of_model[0]
        lines += [
            f"### {model}, by method", "",
            f"Source: perplexity {float(first['source_perplexity']):.2f}; {first['tokens']} predictions of "
            f"`{first['text']}`, calibrated on `{first['calibration']}`.", "",
            "| mix | method | size, MB | divergence, mean | of `search` | same top token | perplexity | CPU minutes | MiB |",
            "|---|---|---|---|---|---|---|---|---|"]
        for ty, own in by_type(of_model).items():
            for method in METHODS:
                if row := own.get(method):
                    lines.append(
                        f"| {ty} | {method} | {int(row['bytes']) / 1e6:.1f} | {float(row['kl_mean']):.4f} ± "
                        f"{float(row['kl_error']):.4f} | {share(own, method):.2f} | {100 * float(row['top1']):.1f} % "
                        f"| {float(row['perplexity']):.2f} | {float(row['cpu_seconds']) / 60:.1f} | {row['memory_mib']} |")
        lines.append("")
    fill(MARKS, lines)


WIDTH, LEFT, TOP, ROW, PANEL, GAP = 960, 190, 58, 17, 320, 130


def picture(rows):
    """A bar for each method of each mix, a panel for each model."""
    models = by_model(rows)
    n_rows = max(len(of_model) + 2 * len(by_type(of_model)) for of_model in models.values())
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + n_rows * ROW + 20}" role="img" '
           f'aria-label="Divergence from the source by method, as a share of that of search">',
           f"<style>{STYLE}</style>",
           f'<text class="quiet" x="{LEFT}" y="22">divergence as a share of that of `search` with importances: '
           f"less is better</text>"]
    for number, (model, of_model) in enumerate(models.items()):
        left, y = LEFT + number * (PANEL + GAP), TOP
        out.append(f'<text class="title" x="{left}" y="{TOP - 10}">{html.escape(model)}</text>')
        for ty, own in by_type(of_model).items():
            out.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end" class="title">{ty}</text>')
            y += ROW
            for method in [method for method in METHODS if method in own]:
                part = share(own, method)
                kind = "named" if method == "search" else "target"
                out.append(f'<text class="small" x="{left - 8}" y="{y + 12}" text-anchor="end">{method}</text>'
                           f'<rect class="{kind}" x="{left}" y="{y + 2}" width="{min(part, 1.3) / 1.3 * PANEL:.1f}" '
                           f'height="{ROW - 5}"/>'
                           f'<text class="small" x="{left + min(part, 1.3) / 1.3 * PANEL + 5:.1f}" y="{y + 12}">{part:.2f}</text>')
                y += ROW
            y += ROW // 2
    return "\n".join(out) + "\n</svg>\n"


if __name__ == "__main__":
    main()
