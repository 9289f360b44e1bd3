"""Classifies images: python predict.py FILE … (needs torch and pillow)."""

import json
import sys
from pathlib import Path

import torch
from PIL import Image, ImageOps

config = json.loads(Path(__file__).with_name("config.json").read_text(encoding="utf-8"))
network = torch.export.load(Path(__file__).with_name("model.pt2")).module()
channels, height, width = config["shape"]
for name in sys.argv[1:]:
    with Image.open(name) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):  # 16 bits
        image = image.point(lambda value: value * (255 / 65535) + 0.5).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(height, width, channels)
    pixels = (pixels * (config["white"] / 255)).round().permute(2, 0, 1)
    probabilities, classes = network(pixels[None])[0].softmax(0).topk(min(5, len(config["classes"])))
    print(name, *(f"{config['classes'][c]}: {p:.5f}" for p, c in zip(probabilities.tolist(), classes.tolist())))
