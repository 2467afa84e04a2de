"""Commands of the vem room for single images: files in, files out."""

from __future__ import annotations

import hashlib
import logging
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emflow import device as devices
from emflow.io.journal import Journal, result_key
from emflow.io.listing import stat_file
from emflow.io.pictures import Picture, list_pictures, write_picture
from emflow.io.record import Record, write_metrics, write_verdicts
from emflow.nn.train import Plan
from emflow.nn.weights import CheckpointFile, write_model
from emflow.step import EmflowError, Run
from emflow.vem.alone import noise_kernel, noisy_again
from emflow.vem.config_images import VemDenoise, VemTrainImages
from emflow.vem.denoiser import KIND, Denoiser, FoldedUNet, fine_noise, oriented
from emflow.vem.hidden import blended, judge
from emflow.vem.inputs_images import (
    enlarged,
    factor_between,
    list_pairs,
    read_denoiser,
    read_large,
    read_network,
    spread_over,
)
from emflow.vem.outputs import stored
from emflow.vem.outputs_pictures import (
    Applied,
    Metrics,
    alone_metrics,
    alone_verdicts,
    applied_metrics,
    applied_verdicts,
    pair_metrics,
    pair_verdicts,
)
from emflow.vem.pairs import Pair, draw
from emflow.vem.register import Registered, register
from emflow.vem.train_images import fit

log = logging.getLogger("emflow")


def train_images(
    noisy: Path,
    out: Path,
    /,
    *,
    clean: Path | None = None,
    cfg: VemTrainImages = VemTrainImages(),
    run: Run = Run(),
) -> None:
    """Learn to denoise or super-resolve images, from one pair of images or several, or from noisy images alone.

    Pairs are registered first. A part of them is hidden from the training, scored, and used to calibrate the interval.

    Parameters
    ----------
    noisy
        Image (TIFF, PNG, MRC), folder of images, or stack.
    out
        Folder to write: model.safetensors, its manifest model.json, metrics.json, verdicts.json.
    clean
        The same fields with less noise, or more pixels, or taken once more with as much noise.
    """
    device = devices.prepare(run)
    with Record("vem.train_images", cfg, run, inputs=[noisy, *([clean] if clean else [])]) as record:
        start, begun_from = _begin(cfg, device)
        if clean:
            metrics, verdicts, denoiser, dtype = _from_pairs(
                noisy, clean, start, (out, begun_from), cfg, device
            )
        else:
            metrics, verdicts, denoiser, dtype = _alone(noisy, start, (out, begun_from), cfg, device)
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", verdicts)
        facts = ("mean", "deviation", "gain", "offset", "quantile", "noise", "factor")
        write_model(
            out / "model.safetensors",
            denoiser.network.state_dict(),
            {"kind": KIND, "widths": list(denoiser.network.inner.widths)},
            licence="not stated",
            recipe=[shlex.join(["emflow", *sys.argv[1:]])],
            facts={
                **{name: getattr(denoiser, name) for name in facts},
                "coverage": cfg.coverage,
                "dtype": str(dtype),
                "begun_from": begun_from,
                "settings": cfg.model_dump(mode="json"),
                "metrics": metrics,
            },
        )
        _checkpoint(out, "").remove()
        record.notes = dict(metrics)


def _begin(cfg: VemTrainImages, device: torch.device) -> tuple[FoldedUNet, str]:
    """First weights, and what they are: a checksum or scratch."""
    if cfg.start == "general":
        network, model = read_network(None, device)
        return network.requires_grad_(True), model.sha256
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        return FoldedUNet().to(device), "scratch"


def _checkpoint(out: Path, key: str) -> CheckpointFile:
    return CheckpointFile(out / ".checkpoint.safetensors", key)


def _plan(cfg: VemTrainImages) -> Plan:
    return Plan(cfg.steps, cfg.batch, cfg.learning_rate, averaging=0.99)


def _digest(images: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(image).tobytes() for image in images)).hexdigest()


Outcome = tuple[Metrics, list[dict[str, str]], Denoiser, np.dtype[Any]]


def _from_pairs(
    noisy: Path,
    clean: Path,
    start: FoldedUNet,
    place: tuple[Path, str],
    cfg: VemTrainImages,
    device: torch.device,
) -> Outcome:
    """Register the pairs, learn from them, and judge by what was hidden."""
    found, images, refused = [], [], []
    factor, dtype = cfg.factor, np.dtype(np.float32)
    for first, second in spread_over(list_pairs(noisy, clean), cfg.max_images):
        raw, target = read_large(first), read_large(second)
        factor = factor or factor_between(raw, target, first.path)
        try:
            registered = register(enlarged(raw, factor), target.astype(np.float32))
        except EmflowError as error:
            refused.append(f"{first.name}: {error}")
            log.warning("set aside: %s", refused[-1])
            continue
        found.append(registered)
        images.append(enlarged(raw, factor))
        dtype = target.dtype
    if not found or factor is None:
        raise EmflowError(f"No pair can be learned from. {refused[0]}")
    denoiser = _intensities(start, images, found, factor)
    pairs = [
        _pair_of(denoiser, image, r, number)
        for number, (image, r) in enumerate(zip(images, found, strict=True))
    ]
    out, begun_from = place
    key = result_key(cfg, begun_from, _digest([*images, *(r.clean for r in found)]))
    first_weights = {name: value.clone() for name, value in start.state_dict().items()}

    def batch(step: int) -> Any:
        return draw(pairs, step, cfg.seed, cfg.batch, cfg.crop_px)

    trained = fit(start, batch, _plan(cfg), device, _checkpoint(out, key))
    blend = None
    if cfg.start == "general":
        start.load_state_dict(first_weights)
        trained, blend = blended(start, trained, pairs, cfg.tile_px)
    judged = judge(trained, pairs, cfg)
    denoiser = replace(denoiser, network=trained, quantile=judged.quantile)
    metrics = pair_metrics(found, len(refused), judged, blend)
    return metrics, pair_verdicts(metrics, refused, cfg.coverage), denoiser, dtype


def _intensities(
    network: FoldedUNet, images: list[np.ndarray], found: list[Registered], factor: int
) -> Denoiser:
    known = np.concatenate([image[r.matched] for image, r in zip(images, found, strict=True)]).astype(float)
    gain, offset = (float(np.mean([getattr(r, name) for r in found])) for name in ("gain", "offset"))
    noise = float(np.mean([fine_noise(torch.from_numpy(image)) for image in images]))
    return Denoiser(
        network, float(known.mean()), float(known.std()), gain, offset, noise=noise, factor=factor
    )


def _pair_of(denoiser: Denoiser, image: np.ndarray, registered: Registered, number: int) -> Pair:
    def units(values: np.ndarray) -> Tensor:
        return torch.from_numpy(((values - denoiser.mean) / denoiser.deviation).astype(np.float32))

    target = units(denoiser.gain * registered.clean + denoiser.offset)
    return Pair.of(units(image), target, torch.from_numpy(registered.matched), number)


def _alone(
    noisy: Path, start: FoldedUNet, place: tuple[Path, str], cfg: VemTrainImages, device: torch.device
) -> Outcome:
    """Learn the images' noise, and to take it away."""
    if cfg.start != "general":
        raise EmflowError(
            "vem train-images: noisy images alone need first weights. Set start to general, or give --clean."
        )
    if cfg.factor not in (None, 1):
        raise EmflowError(
            "vem train-images: super-resolution is learned from pairs. Give --clean, or leave factor out."
        )
    raw = [read_large(picture) for picture in spread_over(list_pictures(noisy), cfg.max_images)]
    images = [image.astype(np.float32) for image in raw]
    known = np.concatenate([image.ravel() for image in images]).astype(float)
    mean, deviation = float(known.mean()), float(known.std())
    units = [torch.from_numpy((image - mean) / deviation).float() for image in images]
    first = [oriented(start.eval(), image, cfg.tile_px, cfg.orientations) for image in units]
    denoised = [found[0] for found in first]
    kernel = noise_kernel([a - b for a, b in zip(units, denoised, strict=True)])

    def batch(step: int) -> Any:
        return noisy_again(denoised, kernel, step, cfg.seed, (cfg.batch, cfg.crop_px))

    out, begun_from = place
    trained = fit(
        start.train(),
        batch,
        _plan(cfg),
        device,
        _checkpoint(out, result_key(cfg, begun_from, _digest(images))),
    )
    # what was learned knows nothing of what the first denoiser missed: the interval stays as wide as that one's
    last = [oriented(trained, image, cfg.tile_px, cfg.orientations) for image in units]
    widths = [torch.cat([found[1].exp().flatten() for found in all_]).mean() for all_ in (first, last)]
    quantile = read_denoiser(None, device)[0].quantile * float(widths[0] / widths[1])
    level = float(np.mean([fine_noise(torch.from_numpy(image)) for image in images]))
    metrics = alone_metrics(len(images), float(kernel.square().sum().sqrt()), quantile)
    return (
        metrics,
        alone_verdicts(metrics),
        Denoiser(trained, mean, deviation, quantile=quantile, noise=level),
        raw[0].dtype,
    )


def denoise(images: Path, out: Path, /, *, cfg: VemDenoise = VemDenoise(), run: Run = Run()) -> None:
    """Denoise or super-resolve images one by one, with the interval about each pixel. A killed run goes on.

    Parameters
    ----------
    images
        Image (TIFF, PNG, MRC), folder of images, or stack or volume, whose slices are worked through.
    out
        Folder to write: denoised/ and error/ (half-widths) with a TIFF for each image, metrics.json, verdicts.json.
    """
    device = devices.prepare(run)
    weights = Path(cfg.weights) if cfg.weights else None
    pictures = list_pictures(images)
    names = [picture.name for picture in pictures]
    if len(set(names)) < len(names):
        raise EmflowError(f"{images}: two images of one name; give each an own one.")
    with Record("vem.denoise", cfg, run, inputs=[images, *([weights] if weights else [])]) as record:
        denoiser, model = read_denoiser(weights, device)
        journal = Journal(out / ".images.journal")
        done, refused = [], []
        for picture in pictures:
            found = stat_file(str(picture.path))
            key = result_key(cfg, picture.name, found.identity if found else "", model.sha256)
            told = journal.get(picture.name, key)
            if told is None:
                try:
                    told = _denoise(picture, out, denoiser, model.facts, cfg)
                except EmflowError as error:
                    refused.append(str(error))
                    log.warning("set aside: %s", error)
                    continue
                journal.put(picture.name, key, told)
            done.append(Applied(picture.name, *told))
        if not done:
            raise EmflowError(f"{images}: no image could be denoised. {refused[0]}")
        metrics = applied_metrics(done, len(refused))
        write_metrics(out / "metrics.json", metrics)
        write_verdicts(out / "verdicts.json", applied_verdicts(done, refused, "mean" not in model.facts))
        record.notes = dict(metrics) | {"weights": model.sha256}


def _denoise(
    picture: Picture, out: Path, denoiser: Denoiser, facts: dict[str, Any], cfg: VemDenoise
) -> tuple[float, float, float, float]:
    """Write one image and its error; return what :class:`Applied` holds of it."""
    raw = picture.read()
    image = torch.from_numpy(enlarged(raw, denoiser.factor))
    mean, deviation = float(image.mean()), float(image.std()) or 1.0
    contrast = deviation / denoiser.deviation
    expected = denoiser.noise * (contrast if cfg.rescale else 1)
    noise = fine_noise(image) / expected if expected else 1.0
    told = (mean - denoiser.mean) / denoiser.deviation, contrast, noise
    if "mean" not in facts:
        denoiser = replace(denoiser, mean=mean, deviation=deviation)
    elif cfg.rescale:
        denoiser = denoiser.suited_to(image)
    found = denoiser.denoise(image, cfg.tile_px, cfg.orientations)
    dtype = np.dtype(facts.get("dtype", raw.dtype))
    notes = {"made_by": "vem.denoise", "restored": True, "image": picture.name}
    write_picture(out / "denoised" / f"{picture.name}.tif", stored(found.values, dtype), notes)
    width = f"{facts['coverage']:g} interval, half-width"
    write_picture(
        out / "error" / f"{picture.name}.tif", stored(found.error, dtype, up=True), notes | {"content": width}
    )
    return *told, float(found.error.mean()) * abs(denoiser.gain) / deviation
