"""Measures the speed of this program on a machine, beside plain loops that were written for the comparison."""
