"""A training state as one safetensors file: tensors, and what is not a tensor as JSON in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from contracts.errors import InvalidInput, UnknownVersion

CHECKPOINT_VERSION = 1
_STATE = "repcenter_state"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replace the file at once: whoever reads sees the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    document = {"version": CHECKPOINT_VERSION, **state}
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(plain, part, metadata={_STATE: json.dumps(document)})
    os.replace(part, path)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """tensors, state. Raises InvalidInput where the file is not a checkpoint, UnknownVersion."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_STATE)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InvalidInput("checkpoint", str(path), f"cannot be read ({error})") from error
    if header is None:
        raise InvalidInput("checkpoint", str(path), "is not a training checkpoint")
    state: dict[str, Any] = json.loads(header)
    if state.get("version") != CHECKPOINT_VERSION:
        raise UnknownVersion("checkpoint", state.get("version"), CHECKPOINT_VERSION)
    return tensors, state


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named `prefix/…`, by the rest of their name."""
    start = prefix + "/"
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each name put behind `prefix/`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
