"""Checkpoints of long steps: one file with tensors and what else is known, under a key.

A hidden file beside the results, not declared to Snakemake, so it survives a kill and a rerun. It is used
only if its key (settings, version, inputs) is the same; a file cut short or of another key is as good as
none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from emflow.io.atomic import write_bytes

log = logging.getLogger("emflow")


class Checkpoint:
    """One checkpoint file, ``.safetensors``."""

    def __init__(self, path: Path, key: str) -> None:
        """Name the file and the key; nothing is read yet."""
        self.path, self.key = path, key

    def save(self, tensors: Mapping[str, Tensor], more: Mapping[str, Any]) -> None:
        """Write atomically: a kill leaves the checkpoint before."""
        content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        metadata = {"key": self.key, "more": json.dumps(more, sort_keys=True)}
        write_bytes(self.path, save(content, metadata=metadata))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and the rest, or None where there is nothing under this key."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as handle:
                metadata = handle.metadata() or {}
                if metadata.get("key") != self.key:
                    return None
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            return tensors, json.loads(metadata["more"])
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            log.warning("%s: checkpoint cannot be read (%s); starting anew", self.path, error)
            return None
