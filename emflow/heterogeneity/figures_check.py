"""Figure of the reality checks."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from emflow.figure import BLUE, CLASSES, MUTED, ORANGE, figure, styled
from emflow.heterogeneity.judge_reality import CONFIRMED, REAL, Finding
from emflow.heterogeneity.reality import Coordinates, Sides
from emflow.heterogeneity.reality_states import StateMaps


@styled
def draw_reality(
    found: Coordinates,
    sides: Sides,
    coordinates: list[Finding],
    maps: StateMaps | None,
    states: dict[int, Finding],
) -> Figure:
    """Agreement of the halves beside chance; gain with and beyond poses; FSC of the states' differences."""
    drawn = figure(10.4, 2.9)
    first, second, third = drawn.subplots(1, 3)
    axes = np.arange(1, len(coordinates) + 1)
    colours = [BLUE if each.answer == REAL else MUTED for each in coordinates]
    first.bar(axes - 0.2, found.latent.numpy(), 0.36, color=colours)
    first.bar(axes + 0.2, sides.volume.cpu().numpy(), 0.36, color=colours, alpha=0.5)
    chance = np.concatenate([found.latent_chance.numpy(), sides.volume_chance.cpu().numpy()])
    first.axhspan(float(chance.min()), float(chance.max()), color=ORANGE, alpha=0.25, lw=0, label="chance")
    first.set(xlabel="axis", ylabel="halves: latents, components (pale)", ylim=(-0.3, 1.02), xticks=axes)
    first.legend(loc="upper right")
    second.bar(axes, found.gain.numpy(), 0.7, color=MUTED, alpha=0.6, label="gain")
    second.bar(axes, found.gain_beyond.numpy(), 0.4, color=colours, label="beyond poses")
    second.set(xlabel="axis", ylabel="nat per held-out image", xticks=axes)
    second.legend(loc="upper right")
    if maps is None:
        third.set_visible(False)
        return drawn
    shells = np.arange(maps.curves.shape[1])
    middle, spread = maps.chance.mean(0).numpy(), maps.chance.std(0).numpy()
    third.fill_between(
        shells, middle - 2 * spread, middle + 2 * spread, color=ORANGE, alpha=0.25, lw=0, label="chance"
    )
    for number, curve in zip(maps.number.tolist(), maps.curves.numpy(), strict=True):
        sure = states[number].answer == CONFIRMED
        colour = CLASSES[(number - 1) % len(CLASSES)]
        third.plot(shells, curve, color=colour, ls="-" if sure else ":", label=f"state {number}")
    third.set(xlabel="shell", ylabel="FSC, state − mean", ylim=(-0.4, 1.02))
    third.legend(loc="upper right", fontsize=6.5)
    return drawn
