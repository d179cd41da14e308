"""Says how near the meanings of texts are to the first one's: embed.py MODEL [TEXT..]"""

import sys

import teff

model = teff.Model(sys.argv[1])
texts = sys.argv[2:] or ["a cold night", "a winter evening", "tax returns"]
first, *others = model.embed(texts)
for text, vector in zip(texts[1:], others):
    print(f"{sum(a * b for a, b in zip(first, vector)):.4f} {text}")
