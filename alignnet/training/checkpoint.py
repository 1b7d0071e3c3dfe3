"""Checkpoints that are either whole or absent, and that are read without executing anything from them."""

from __future__ import annotations

import io
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from alignnet.data.atomic import room_named
from alignnet.errors import CheckpointError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name in the same folder and renames; loads tensors and plain values only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; a kill at any moment leaves the old file or the new one.

        Raises:
            ConfigError: there is no room for it; the old file stays.
        """
        path, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)  # into memory: of a file it would not say why it cannot be written
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with room_named(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("wb") as file:
                    file.write(content.getbuffer())
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            CheckpointError: it is missing, damaged, or holds more than tensors and plain values.
        """
        return load_checkpoint(path)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file, as `AtomicCheckpointIO.load_checkpoint`."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint; give the folder of a run that has checkpoints/last.ckpt"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it is damaged or holds more than tensors and plain values; "
            "nothing in it was executed"
        ) from error
    except Exception as error:  # bytes that make no sense raise anything, an IndexError for a text file
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({_first_line(error)})") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of a training run, it has no state_dict")
    return content


def check_complete(content: dict[str, Any], path: Path) -> None:
    """Refuse to go on from a checkpoint that lacks what Lightning reads of it.

    Raises:
        CheckpointError: names what is missing.
    """
    for key in ("optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "global_step"):
        if key not in content:
            raise CheckpointError(f"{path}: damaged, or not of a training run: it has no {key}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
