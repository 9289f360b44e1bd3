"""Classifies the rows of CSV files with one column for each feature: python predict.py FILE … (needs torch)."""

import csv
import json
import sys
from pathlib import Path

import torch

config = json.loads(Path(__file__).with_name("config.json").read_text(encoding="utf-8"))
network = torch.export.load(Path(__file__).with_name("model.pt2")).module()
for name in sys.argv[1:]:
    with open(name, encoding="utf-8-sig", newline="") as file:
        lines = [line for line in csv.reader(file) if line]
    if not all(value.lstrip("+-").replace(".", "", 1)[:1].isdigit() for value in lines[0]):
        lines = lines[1:]  # without the headings
    rows = torch.tensor([[float(value) for value in line] for line in lines], dtype=torch.float64)
    for number, each in enumerate(network(rows).softmax(1), 1):
        probabilities, classes = each.topk(min(5, len(config["classes"])))
        found = zip(probabilities.tolist(), classes.tolist())
        print(name, number, *(f"{config['classes'][c]}: {p:.5f}" for p, c in found))
