"""Figures of a model in a map and of the map's hand. Each returns a matplotlib figure; nothing is written here."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from emflow.em.atoms import AtomicModel
from emflow.figure import BLUE, GREEN, INK, MUTED, ORANGE, RED, figure, styled
from emflow.validate.figures import resolution_axis
from emflow.validate.hand import CLAIM, Windings, right_probability
from emflow.validate.judge_model import misfits
from emflow.validate.model import ModelCurves, RealSpace

_MOST_CHAINS = 12


@styled
def draw_model_fsc(curves: ModelCurves) -> Figure:
    """Draw the FSC of a model against the map and its halves, and the most that a perfect model could reach."""
    fig = figure(6.6, 3.7)
    ax = fig.add_subplot()
    x = np.arange(len(curves.full)) / (curves.box * curves.voxel_size_angstrom)
    half = curves.halves.clamp_min(0)
    ax.plot(x[1:], curves.half1[1:], color=BLUE, lw=1, label="model, half 1")
    ax.plot(x[1:], curves.half2[1:], color=ORANGE, lw=1, ls="--", label="model, half 2")
    ax.plot(x[1:], curves.full[1:], color=INK, lw=2, label="model, map")
    ax.plot(x[1:], curves.halves[1:], color=MUTED, lw=1, label="half 1, half 2")
    best = (2 * half / (1 + half)).sqrt()
    ax.plot(x[1:], best[1:], color=MUTED, lw=1, ls=":", label="a perfect model, map")
    for level in (0.143, 0.5):
        ax.axhline(level, color=INK, lw=0.6, ls=":")
    for shell, colour, drop in (
        (curves.fit_shell, GREEN, 0.99),
        (curves.resolved_shell, MUTED, 0.9),
    ):
        at = curves.angstrom(shell)
        if at is not None:
            ax.axvline(1 / at, color=colour, lw=1)
            near_edge = 1 / at > 0.75 * x[-1]
            ax.annotate(
                f"{at:.1f} Å", (1 / at, drop), xytext=(-5 if near_edge else 5, 0), textcoords="offset points",
                ha="right" if near_edge else "left", va="top", color=colour, weight="bold",
            )  # fmt: skip
    ax.set_ylim(-0.12, 1.02)
    resolution_axis(ax, x[-1])
    ax.set_ylabel("Fourier shell correlation\nwithin the model's mask")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return fig


@styled
def draw_residues(model: AtomicModel, space: RealSpace, q: np.ndarray, expected: float) -> Figure:
    """Draw Q-score and correlation along each chain; residues without density of their own are marked."""
    chain = np.array(model.residue_chain)
    names = list(dict.fromkeys(model.residue_chain))
    shown = names[:_MOST_CHAINS]
    fig = figure(7.4, 0.7 + 1.5 * len(shown))
    for row, name in enumerate(shown):
        ax = fig.add_subplot(len(shown), 1, row + 1)
        mine = np.flatnonzero(chain == name)
        x = np.arange(len(mine))
        ax.axhline(expected, color=BLUE, lw=0.7, ls=":")
        ax.plot(x, space.residues[mine], color=ORANGE, lw=1, label="real-space correlation")
        ax.plot(x, q[mine], color=BLUE, lw=1.2, label="Q-score (dotted: expected)")
        poor = misfits(space.residues, q)[mine]
        ax.plot(
            x[poor],
            space.residues[mine][poor],
            "o",
            ms=4,
            mfc="none",
            color=RED,
            label="no density of its own",
        )
        ax.set_ylim(min(-0.1, float(np.nanmin(np.append(q[mine], 0)))), 1.02)
        ax.set_xlim(-0.5, max(len(mine) - 0.5, 1))
        ticks = np.unique(np.linspace(0, len(mine) - 1, min(10, len(mine))).round().astype(int))
        ax.set_xticks(ticks, [model.residue_number[mine[t]] for t in ticks])
        ax.set_ylabel(f"chain {name}")
        if row == 0:
            ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.1)
    left_out = len(names) - len(shown)
    note = f" ({left_out} more chains are in model.star)" if left_out else ""
    fig.supxlabel("residue" + note, fontsize=9)
    return fig


@styled
def draw_hand(windings: Windings) -> Figure:
    """Draw how strongly each rod winds either way, and the score that follows."""
    fig = figure(6.2, 3.1)
    left, right = fig.subplots(1, 2, width_ratios=(1, 1.05))
    top = float(max(windings.right.max(), windings.left.max())) or 1.0
    wins = windings.right > windings.left
    for chosen, colour, label in ((wins, BLUE, "right wins"), (~wins, ORANGE, "left wins")):
        left.plot(
            windings.left[chosen] / top, windings.right[chosen] / top, "o", ms=3.5, color=colour, alpha=0.7,
            label=f"{label}: {int(chosen.sum())}", mew=0,
        )  # fmt: skip
    left.plot([0, 1], [0, 1], color=MUTED, lw=0.7)
    left.set_xlim(0, 1.03)
    left.set_ylim(0, 1.03)
    left.set_aspect("equal")
    left.set_xlabel("left-handed winding (relative)")
    left.set_ylabel("right-handed winding")
    left.legend(loc="lower right")
    left.set_title("Each rod")
    score = windings.score
    span = max(6.5, abs(score) + 1.5)
    x = np.linspace(-span, span, 300)
    right.fill_between(x, np.exp(-0.5 * (x / 1.1) ** 2), color=MUTED, alpha=0.25, lw=0)
    right.annotate("nothing\nresolved", (0, 0.35), ha="center", color=INK, fontsize=8)
    claims = [s for s in x if max(p := right_probability(s, len(windings.right)), 1 - p) >= CLAIM]
    for at in (min(claims, key=abs), -min(claims, key=abs)) if claims else ():
        right.axvline(at, color=MUTED, lw=0.8, ls=":")
    sure = windings.probability
    colour = GREEN if sure >= CLAIM else RED if sure <= 1 - CLAIM else INK
    right.axvline(score, color=colour, lw=2)
    side = -1 if score > 0 else 1
    right.annotate(
        f"{score:+.1f}", (score, 1.0), xytext=(4 * side, 0), textcoords="offset points",
        ha="right" if side < 0 else "left", va="top", color=colour, weight="bold",
    )  # fmt: skip
    right.set_yticks([])
    right.spines["left"].set_visible(False)
    right.set_ylim(0, 1.08)
    right.set_xlim(-span, span)
    right.set_xlabel("score (left-handed < 0 < right-handed)")
    right.set_title(f"Together: probability of the right hand {windings.probability:.3f}")
    return fig
