"""All that an exact resume needs, as named tensors and JSON."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from align.errors import IntegrityError


def capture(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What learns, the optimizer's moments, and the random generators.

    Returns:
        Tensors by name, and a JSON-able rest.
    """
    tensors = {f"model/{name}": p.detach() for name, p in parameters.items()}
    for name, p in parameters.items():
        for key, value in optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{key}/{name}"] = value
    tensors["rng/torch"] = torch.get_rng_state()
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    tensors["rng/numpy"] = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    rest = {
        "python": [version, list(words), gauss],
        "numpy": [kind, int(position), int(has_gauss), float(cached)],
    }
    return tensors, {"rng": rest, "moments": _moments(parameters, optimizer)}


def _moments(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, float | None]]:
    """What the optimizer keeps of each parameter that has learned: plain numbers, and None for tensors."""
    return {
        name: {key: None if isinstance(x, Tensor) else x for key, x in optimizer.state[p].items()}
        for name, p in parameters.items()
        if optimizer.state.get(p)
    }


def restore(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    where: str,
) -> None:
    """Put everything back where `capture` took it from.

    Raises:
        IntegrityError: A part is missing or left over; it is named.
    """
    wanted = {f"model/{name}" for name in parameters} | {"rng/torch", "rng/numpy"}
    moments: Mapping[str, Mapping[str, float | None]] = state["moments"]
    wanted |= {f"optimizer/{key}/{n}" for n, kept in moments.items() for key, x in kept.items() if x is None}
    found = {key.split("/", 2)[2] for key in tensors if key.startswith("optimizer/")}
    if found != set(moments):  # of parameters that have not learned yet there are none
        what = f"optimizer state of {len(found)} of {len(moments)} parameters"
        raise IntegrityError(where, what, "remove it to start over")
    for problem, names in (("misses", wanted - set(tensors)), ("has unknown", set(tensors) - wanted)):
        if names:
            raise IntegrityError(
                where, f"the saved state {problem} {sorted(names)[0]!r}", "remove it to start over"
            )
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(tensors[f"model/{name}"])
            if name in moments:
                optimizer.state[p] = {
                    key: tensors[f"optimizer/{key}/{name}"].clone() if number is None else number
                    for key, number in moments[name].items()
                }
    torch.set_rng_state(tensors["rng/torch"])
    version, words, gauss = state["rng"]["python"]
    random.setstate((version, tuple(words), gauss))
    kind, position, has_gauss, cached = state["rng"]["numpy"]
    np.random.set_state((kind, tensors["rng/numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
