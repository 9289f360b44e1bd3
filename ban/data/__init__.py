"""Data sets: each is a function that returns an `Images`, a `Tabular` or a `Text` on a device.

This package imports nothing, so that `ban.data.corpus` needs no torch, and `ban.data.cifar` alone needs torchvision.
"""
