"""Weights on disk: safetensors and beside them a manifest that says what they are and where they come from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

import emflow
from emflow.io.atomic import write_bytes, write_text
from emflow.step import EmflowError


@dataclass(frozen=True)
class Model:
    """Weights with what their manifest says."""

    state: dict[str, Tensor]
    network: dict[str, Any]
    """Kind of network and its sizes, as it is built again."""
    sha256: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What belongs to the weights: the scale they work at, what they were trained on."""


def manifest_path(weights: Path) -> Path:
    """Return the manifest's path: ``model.safetensors`` → ``model.json``."""
    return weights.with_suffix(".json")


def write_model(
    weights: Path,
    state: dict[str, Tensor],
    network: dict[str, Any],
    *,
    licence: str,
    recipe: list[str],
    facts: dict[str, Any],
) -> None:
    """Write weights, then their manifest.

    Parameters
    ----------
    weights
        Path that ends in ``.safetensors``; the manifest stands beside it.
    network
        Kind and sizes.
    licence
        Under which the weights may be used.
    recipe
        The commands that made them, a line each.
    facts
        What belongs to the weights.
    """
    content = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in state.items()})
    manifest = {
        "file": weights.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": licence,
        "emflow": emflow.__version__,
        "recipe": recipe,
        "network": network,
        "facts": facts,
    }
    write_bytes(weights, content)
    write_text(manifest_path(weights), json.dumps(manifest, indent=1) + "\n")


def read_model(weights: Path) -> Model:
    """Read weights and check them against their manifest.

    Raises
    ------
    EmflowError
        If either file is missing or damaged, or the checksum is another one's.
    """
    manifest = _read_manifest(weights)
    try:
        content = weights.read_bytes()
    except OSError as error:
        raise EmflowError(f"{weights}: weights cannot be read ({error.strerror}).") from None
    found = hashlib.sha256(content).hexdigest()
    if found != manifest["sha256"]:
        raise EmflowError(
            f"{weights}: checksum {found[:12]}… where {manifest_path(weights).name} says "
            f"{manifest['sha256'][:12]}…. The file was changed or damaged, or belongs to another manifest; get "
            "both again, or train anew."
        )
    try:
        state = safetensors.torch.load(content)
    except SafetensorError as error:
        raise EmflowError(f"{weights}: not a safetensors file ({error}).") from None
    return Model(state, manifest["network"], found, manifest.get("facts", {}))


def _read_manifest(weights: Path) -> dict[str, Any]:
    path = manifest_path(weights)
    if weights.suffix != ".safetensors":
        raise EmflowError(f"{weights}: weights are a .safetensors file with its manifest (.json) beside it.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EmflowError(
            f"{path}: no such file. Weights come with a manifest of the same name; keep the two together."
        ) from None
    except (OSError, ValueError) as error:
        raise EmflowError(f"{path}: not a readable manifest ({error}).") from None
    lacking = {"sha256", "network"} - set(manifest if isinstance(manifest, dict) else ())
    if lacking:
        raise EmflowError(f"{path}: lacks {', '.join(sorted(lacking))}; not a manifest of weights.")
    return manifest


class CheckpointFile:
    """A training's state in one safetensors file, of use only to the training with the same key."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key

    def load(self) -> dict[str, Tensor] | None:
        """Return the stored state; None if there is none, of another training, or damaged."""
        try:
            with safetensors.safe_open(self._path, framework="pt") as handle:
                if (handle.metadata() or {}).get("key") != self._key:
                    return None
                return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None

    def save(self, state: dict[str, Tensor]) -> None:
        """Store the state in place of the last, atomically."""
        write_bytes(self._path, safetensors.torch.save(state, metadata={"key": self._key}))

    def remove(self) -> None:
        """Remove the file once the training is over."""
        self._path.unlink(missing_ok=True)


def read_kind(path: Path, kind: str, verb: str, name: str = "model.safetensors") -> Model:
    """Read the weights of one kind of network, or those in a folder.

    Parameters
    ----------
    kind
        What ``network`` of the manifest must say.
    verb
        The command that writes such weights, for the error.
    name
        Of the weights in a folder.

    Raises
    ------
    EmflowError
        If they are damaged, or of another kind.
    """
    path = path / name if path.is_dir() else path
    model = read_model(path)
    found = model.network.get("kind")
    if found != kind:
        raise EmflowError(
            f"{path}: weights of kind '{found}'; expected '{kind}', as `emflow {verb}` writes them."
        )
    return model
