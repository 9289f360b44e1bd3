"""The perplexities of texts: python predict.py FILE … (needs torch)."""

import json
import math
import sys
from pathlib import Path

import torch

config = json.loads(Path(__file__).with_name("config.json").read_text(encoding="utf-8"))
network = torch.export.load(Path(__file__).with_name("model.pt2")).module()
number = {word: place for place, word in enumerate(config["classes"])}
for name in sys.argv[1:]:
    lines = [line.split() for line in Path(name).read_text(encoding="utf-8-sig").split("\n")]
    words = [word for line in lines if set(line) - {"<eos>"} for word in [*line, *["<eos>"][: line[-1] != "<eos>"]]]
    state, total = torch.zeros(config["state"]), 0.0
    for before, word in zip(["<eos>", *words], words):
        logits, state = network(torch.tensor([number.get(before, number["<unk>"])]), state)
        total -= logits[0].log_softmax(0)[number.get(word, number["<unk>"])].item()
    print(name, f"perplexity {math.exp(total / len(words)):.2f} over {len(words)} words")
