"""Align: instruction tuning, reward models from human rankings, RLHF and constitutional AI."""

__version__ = "0.1.0"
