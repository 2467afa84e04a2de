"""What the sampling verbs say of themselves."""

from __future__ import annotations

import math

from emflow.io.record import verdict
from emflow.vem.texture import ENOUGH, Texture
from emflow.vem.train_sampler import Judged

LOSS_ALLOWED_DB = 0.5
"""A sampler passes its gate within this loss of PSNR."""

Metrics = dict[str, float | int | None]


def sampler_metrics(judged: Judged, texture: Texture, loss_db: float, widening: float) -> Metrics:
    """Figures of a sampler; ``loss_db`` is that of a restored volume, whose mean is better than that of planes."""
    needed = texture.loss_needed_db
    return {
        "psnr_db": judged.psnr_db,
        "psnr_regression_db": judged.psnr_mean_db,
        "psnr_loss_db": judged.psnr_mean_db - judged.psnr_db,
        "psnr_loss_volume_db": loss_db,
        "ssim": judged.ssim,
        "ssim_regression": judged.ssim_mean,
        "high_frequency_power": judged.power,
        "high_frequency_power_regression": judged.power_mean,
        "high_frequency_power_bound": texture.power,
        "psnr_loss_needed_db": needed if math.isfinite(needed) else None,
        "axial_widening": widening,
    }


def at_temperature(metrics: Metrics, temperature: float) -> Metrics:
    """Figures of a sampler at another temperature: squared error and power of what is added grow with its square."""
    figures = {name: float(value) for name, value in metrics.items() if value is not None}
    scaled = dict(metrics)
    for name in ("psnr_loss_db", "psnr_loss_volume_db"):
        added = temperature**2 * (10 ** (figures[name] / 10) - 1)
        scaled[name] = 10 * math.log10(max(1 + added, 1e-9))
    before = figures["high_frequency_power_regression"]
    scaled["high_frequency_power"] = before + temperature**2 * (figures["high_frequency_power"] - before)
    scaled["psnr_db"] = figures["psnr_regression_db"] - float(scaled["psnr_loss_db"] or 0)
    del scaled["ssim"]
    return scaled


def gate_verdicts(metrics: Metrics) -> list[dict[str, str]]:
    """Whether a sample has the truth's texture at little loss; where not, by how much and why."""
    question = "Do samples look like the truth in their spectrum, and lose little against the restored mean?"
    figures = {name: float(value) for name, value in metrics.items() if value is not None}
    loss = max(figures["psnr_loss_db"], figures["psnr_loss_volume_db"])
    power = figures["high_frequency_power"]
    evidence = (
        f"Thinned-out planes kept from the training: high-frequency power {power:.2f} of the truth's (restored mean "
        f"{figures['high_frequency_power_regression']:.2f}, asked {ENOUGH}), PSNR {loss:.2f} dB below the mean's (allowed "
        f"{LOSS_ALLOWED_DB})."
    )
    if loss <= LOSS_ALLOWED_DB and power >= ENOUGH:
        return [verdict(question, "pass", evidence)]
    needed = figures.get("psnr_loss_needed_db")
    why = (
        f" On these data it costs {needed:.2f} dB at least, however texture is made: so little of it can be known."
        if needed is not None and needed > LOSS_ALLOWED_DB
        else ""
    )
    action = "Raise psnr_loss_db if texture matters more than values; do not measure values in such samples."
    if loss > LOSS_ALLOWED_DB:
        action = "Lower psnr_loss_db, or sample at a lower temperature."
    return [verdict(question, "fail", evidence + why, action)]
