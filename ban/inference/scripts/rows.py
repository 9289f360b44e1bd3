"""Classifies the rows of CSV files, whose first lines name the columns: python predict.py FILE … (needs torch)."""

import csv
import json
import sys
from pathlib import Path

import torch

config = json.loads(Path(__file__).with_name("config.json").read_text(encoding="utf-8"))
network = torch.export.load(Path(__file__).with_name("model.pt2")).module()
for name in sys.argv[1:]:
    with open(name, encoding="utf-8-sig", newline="") as file:
        table = [*csv.DictReader(file)]
    rows: list[list[float]] = [[] for _ in table]
    for column in config["columns"] or [{"name": name} for name in table[0]]:
        for row, text in zip(rows, [line[column["name"]] for line in table]):
            if "values" in column:  # a 0 or 1 for each category
                row += [float(value == " ".join(text.split())) for value in column["values"]]
            else:
                row.append(float(text or column["mean"]))
    for number, found in enumerate(network(torch.tensor(rows, dtype=torch.float64)).softmax(1), 1):
        top = [(config["classes"][place], p) for p, place in zip(*found.topk(min(5, len(found))))]
        print(name, number, *(f"{label}: {p:.5f}" for label, p in top))
