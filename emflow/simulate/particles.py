"""Make particle images with known truth, the particles of one micrograph at a time."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from emflow.device import generator
from emflow.em.optics import Ctf, beam_tilt_phase, rfft_frequencies
from emflow.em.poses import matrix_to_euler
from emflow.simulate.bodies import Bodies
from emflow.simulate.config import SimulateParticles
from emflow.simulate.ensemble import Conformations, Ensemble
from emflow.simulate.imaging import draw_ctf, transfer
from emflow.simulate.project import draw_rotations

_CALIBRATION = 512  # particles from which the scale is set


@dataclass(frozen=True)
class Piece:
    """What is drawn for the particles of one micrograph; making their images costs far more."""

    index: int
    ctf: Ctf
    """Of the micrograph."""
    offset_um: Tensor
    """By how much each particle's defocus differs from the micrograph's, (N,)."""
    rotations: Tensor
    """(N, 3, 3), r_image = A r."""
    shifts_px: Tensor
    """Where each particle lies off the centre (x, y), (N, 2)."""
    conformations: Conformations


def n_pieces(cfg: SimulateParticles) -> int:
    """Micrographs."""
    return max(1, math.ceil(cfg.n_particles / cfg.particles_per_micrograph))


def draw_piece(cfg: SimulateParticles, ensemble: Ensemble, index: int) -> Piece:
    """Draw poses, states and CTF of one micrograph's particles; they depend on its number alone."""
    number = min(cfg.particles_per_micrograph, cfg.n_particles - index * cfg.particles_per_micrograph)
    rng = generator(cfg.seed, 40, index)
    rotations = draw_rotations(number, cfg.view_preference, rng)
    shifts = (2 * torch.rand(number, 2, generator=rng) - 1) * cfg.max_shift_px
    conformations = ensemble.draw(number, rng)
    offset = (
        torch.randn(number, generator=generator(cfg.seed, 42, index)) * cfg.defocus_spread_angstrom * 1e-4
    )
    return Piece(index, draw_ctf(cfg, index, n_pieces(cfg)), offset, rotations, shifts, conformations)


def render(cfg: SimulateParticles, bodies: Bodies, piece: Piece, device: torch.device) -> Tensor:
    """Noise-free images (N, box, box), protein bright, in volt ångström times the CTF."""
    box, pixel = bodies.box, bodies.pixel_size_angstrom
    images = bodies.project(piece.rotations.to(device), piece.shifts_px.to(device), piece.conformations)
    if not len(images):  # the FFT knows no empty batch
        return images
    own = replace(
        piece.ctf,
        defocus_u_um=piece.ctf.defocus_u_um + piece.offset_um,
        defocus_v_um=piece.ctf.defocus_v_um + piece.offset_um,
    )
    h = -0.5 * transfer(
        cfg, own if cfg.defocus_spread_angstrom else piece.ctf, box, pixel, device
    )  # makes protein dark
    if any(cfg.beam_tilt_mrad):
        fy, fx = rfft_frequencies((box, box), pixel, device)
        phase = beam_tilt_phase(cfg.beam_tilt_mrad, cfg.voltage_kv, cfg.cs_mm, fy, fx)
        h = torch.polar(h, -phase.expand_as(h))
    return torch.fft.irfft2(torch.fft.rfft2(images) * h, s=(box, box))


def choose_scale(cfg: SimulateParticles, bodies: Bodies, device: torch.device) -> float:
    """Factor that gives images the settings' SNR over noise of deviation 1, from particles all over the stack."""
    total = n_pieces(cfg)
    wanted = math.ceil(_CALIBRATION / cfg.particles_per_micrograph)
    chosen = torch.linspace(0, total - 1, min(total, max(wanted, 16))).long().tolist()
    variances = []
    for index in chosen:
        piece = draw_piece(cfg, bodies.ensemble, index)
        part = slice(0, math.ceil(_CALIBRATION / len(chosen)))
        piece = replace(
            piece,
            offset_um=piece.offset_um[part],
            rotations=piece.rotations[part],
            shifts_px=piece.shifts_px[part],
            conformations=piece.conformations[part],
        )
        variances.append(variance(render(cfg, bodies, piece, device)))
    power = float(torch.cat(variances).mean()) if cfg.n_particles else 0.0
    return math.sqrt(cfg.snr / power) if power > 0 else 1.0


def variance(images: Tensor) -> Tensor:
    """Variance of each image over its box, (N,)."""
    return images.flatten(1).var(1) if len(images) else images.new_zeros(0)


def noise(cfg: SimulateParticles, piece: Piece) -> Tensor:
    """White noise of deviation 1 for a piece's images."""
    rng = generator(cfg.seed, 41, piece.index)
    return torch.randn(len(piece.rotations), cfg.box_px, cfg.box_px, generator=rng)


def table_of(
    cfg: SimulateParticles, ensemble: Ensemble, piece: Piece, pixel_size_angstrom: float
) -> pd.DataFrame:
    """The particles in RELION's columns, as `emflow extract` names them, with the truth; no rlnImageName."""
    name = f"micrographs/sim_{piece.index + 1:05d}.mrc"
    identity = hashlib.sha256(name.encode()).hexdigest()[:12]
    angles = matrix_to_euler(piece.rotations.double()).numpy()
    columns = math.ceil(math.sqrt(cfg.particles_per_micrograph))  # on a grid: only identities need it
    place = torch.arange(len(angles))
    x, y = ((part * cfg.box_px + cfg.box_px // 2).numpy() for part in (place % columns, place // columns))
    origin = -piece.shifts_px.double().numpy() * pixel_size_angstrom
    return pd.DataFrame(
        {
            "rlnMicrographName": name,
            "rlnCoordinateX": x,
            "rlnCoordinateY": y,
            "rlnOpticsGroup": 1,
            "rlnDefocusU": 1e4 * float(piece.ctf.defocus_u_um),
            "rlnDefocusV": 1e4 * float(piece.ctf.defocus_v_um),
            "rlnDefocusAngle": float(piece.ctf.defocus_angle_deg),
            "rlnPhaseShift": 0.0,
            "rlnRandomSubset": piece.index % 2 + 1,
            "emflowParticleId": [f"{identity}-{a}-{b}" for a, b in zip(x, y, strict=True)],
            "emflowMicrographId": identity,
            "rlnAngleRot": angles[:, 0],
            "rlnAngleTilt": angles[:, 1],
            "rlnAnglePsi": angles[:, 2],
            "rlnOriginXAngst": origin[:, 0],
            "rlnOriginYAngst": origin[:, 1],
            **truth_columns(piece.conformations),
            **(
                {"emflowDefocusOffset": 1e4 * piece.offset_um.double().numpy()}
                if cfg.defocus_spread_angstrom
                else {}
            ),
            **({} if not ensemble.broken else {"emflowBroken": ensemble.kinds(piece.conformations).tolist()}),
        }
    ).astype(object)


def truth_columns(conformations: Conformations) -> dict[str, list[float] | list[int]]:
    """emflowState (−1: broken) and emflowCoordinate1, 2 (degrees) of particles."""
    state = conformations.state.clamp(min=-1)
    columns: dict[str, list[float] | list[int]] = {"emflowState": state.tolist()}
    for number, angle in enumerate(conformations.angle_deg.T, start=1):
        columns[f"emflowCoordinate{number}"] = angle.tolist()
    return columns
