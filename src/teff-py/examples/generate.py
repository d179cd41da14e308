"""Continues a text, which is shown as it comes: generate.py MODEL [TEXT]"""

import sys

import teff

model = teff.Model(sys.argv[1])
text = sys.argv[2] if len(sys.argv) > 2 else "Once upon a time"
answer = model.complete(text, max_tokens=32, temperature=0)
for event in answer:
    if event.kind == "text":
        print(event.text, end="", flush=True)
print()
print(answer.whole()["usage"])
