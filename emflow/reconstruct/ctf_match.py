"""Images against their own half's reference at fixed poses: what every estimate of the CTF is made from.

At a fixed pose an image is y = s·c·P + noise, with P the reference's slice, c = −sin γ the CTF and s its contrast. Over
the pixels of the half plane, log p = Σ [2 s c Re(P* y) − s² c² |P|²]/σ². So all that is needed of a pixel are the product
P*y/σ², the power |P|²/σ² and γ; no image is shifted, multiplied by a CTF and subtracted again for each value tried.

A half map holds its own particles' noise: P*y has an expectation above zero at the very CTF that the map was made with,
and every estimate is drawn back to it. In shells where the half map's SSNR is 1 this is as large as the signal.
The expected share is taken off (``Reference.own``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from emflow.em.fsc import first_below, fsc, shell_index
from emflow.em.images import BATCH, ImageSet, shell_means, spread
from emflow.em.masks import soft_sphere, solvent_mask
from emflow.em.optics import Ctf, beam_tilt_phase, ctf_envelope, ctf_phase, wavelength_angstrom
from emflow.em.slices import HalfPlane, Spectrum, complex_product, volume_spectrum
from emflow.em.symmetry import symmetry_operators


@dataclass(frozen=True)
class Reference:
    """One half's reference: its own half map, filtered and within its own mask."""

    spectrum: Spectrum
    noise: Tensor
    """Noise power of its images per optics group and shell, (G, S)."""
    own: Tensor
    """Share of an image's noise in the slice at its own pose, over the CTF·1/σ² of that pixel: per shell, (S,)."""


@dataclass(frozen=True)
class Match:
    """A batch of images against the reference."""

    product: Tensor
    """P*y/σ² of the image shifted to the centre, less the expected share of its own noise; (B, 2, M)."""
    power: Tensor
    """|P|²/σ², (B, M)."""
    phase: Tensor
    """γ, (B, M): the CTF is −sin γ."""


@dataclass
class Changes:
    """What is added to the table's CTF; on the CPU."""

    defocus_angstrom: Tensor
    """(N,)."""
    astigmatism_angstrom: Tensor
    """Cosine and sine part of (U − V)/2 at twice the angle, (N, 2)."""
    tilt_mrad: Tensor
    """(G, 2), x and y."""
    shift_px: Tensor
    """By which images of each optics group move beside the tilt, (G, 2): what their poses had taken up of it."""

    @staticmethod
    def none(particles: int, groups: int) -> Changes:
        """The table as it is."""
        return Changes(
            torch.zeros(particles), torch.zeros(particles, 2), torch.zeros(groups, 2), torch.zeros(groups, 2)
        )


@dataclass(frozen=True)
class Geometry:
    """Pixels of a band, and how the phase there goes with defocus and astigmatism."""

    plane: HalfPlane
    extent_angstrom: float
    inside: Tensor
    """1 at the pixels that count, 0 below the lowest frequency; (M,)."""

    @property
    def fy(self) -> Tensor:
        """Frequency along y, 1/Å."""
        return self.plane.ky / self.extent_angstrom

    @property
    def fx(self) -> Tensor:
        """Frequency along x, 1/Å."""
        return self.plane.kx / self.extent_angstrom

    def basis(self) -> Tensor:
        """s², sx² − sy² and 2·sx·sy: γ falls by πλ times these per ångström of defocus and astigmatism; (3, M)."""
        fx, fy = self.fx, self.fy
        return torch.stack([fx * fx + fy * fy, fx * fx - fy * fy, 2 * fx * fy])


@dataclass(frozen=True)
class Views:
    """What is known of the particles beside their images; on the CPU."""

    rotations: Tensor
    shifts_px: Tensor
    ctf: tuple[Ctf, ...]
    """For each optics group: parameters of all N particles with that group's voltage, Cs and amplitude contrast."""
    micrograph: Tensor
    """Number of each particle's micrograph, (N,)."""


class Matcher:
    """Matches images of both halves with their references."""

    def __init__(self, images: ImageSet, views: Views, geometry: Geometry) -> None:
        self.images, self.views, self.geometry = images, views, geometry
        self.references: dict[int, Reference] = {}

    def chunks(self, half: int) -> Iterator[tuple[int, Tensor]]:
        """Optics group and rows of whole micrographs, about a batch at a time."""
        rows = self.images.rows(half)
        for group in self.images.group[rows].unique().tolist():
            mine = rows[self.images.group[rows] == group]
            mine = mine[torch.argsort(self.views.micrograph[mine], stable=True)]
            counts = torch.unique_consecutive(self.views.micrograph[mine], return_counts=True)[1].tolist()
            parts: list[Tensor] = []
            for part in mine.split(counts):
                if parts and sum(map(len, parts)) + len(part) > BATCH:
                    yield group, torch.cat(parts)
                    parts = []
                parts.append(part)
            if parts:
                yield group, torch.cat(parts)

    def prepare(self, half: int, volume: Tensor, weight: Tensor, filled: float, symmetry: str) -> None:
        """Take a half's reference; measure its noise.

        Parameters
        ----------
        half
            1 or 2.
        volume
            Half map, filtered by ``weight`` (S,) and masked; (n, n, n).
        filled
            Mean of the mask over the box.
        symmetry
            Point group.
        """
        plane = self.geometry.plane
        shells = int(plane.shell[-1]) + 1
        spectrum = volume_spectrum(volume, float(plane.radius[-1]))
        groups = len(self.views.ctf)
        left = torch.zeros(groups, shells, dtype=torch.float64, device=volume.device)
        transfer, counts = torch.zeros_like(left), torch.zeros_like(left[:, 0])
        for group, part in self.chunks(half):
            centred, ctf = self._centred(part)
            slices = spectrum.slices(self.views.rotations[part].to(volume.device), plane)
            rest = (centred - slices * ctf[:, None]).square().sum(1)
            left[group] += shell_means(rest, plane).sum(0).double()
            transfer[group] += shell_means(ctf * ctf, plane).sum(0).double()
            counts[group] += len(part)
        noise = spread(left, counts).clamp(min=1e-20)
        # trace of the map's hat matrix over its shell: 2πi²/g complex numbers told by N·πi complex pixels
        numbers = 2 * torch.arange(shells, device=volume.device) / len(symmetry_operators(symmetry)) * filled
        own = (
            weight[:shells].to(volume.device) * numbers / (transfer / noise.double()).sum(0).clamp(min=1e-20)
        )
        self.references[half] = Reference(spectrum, noise, own.float())

    def _centred(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """Transforms shifted to the centre, and the table's CTF."""
        transforms, ctf = self.images.transforms(part, self.geometry.plane)
        phases = self.geometry.plane.phases(self.views.shifts_px[part].to(self.images.device))
        return complex_product(transforms, phases), ctf

    def match(self, half: int, group: int, part: Tensor, changes: Changes) -> Match:
        """Match images of one optics group with their half's reference, the CTF changed as given."""
        reference, geometry, device = self.references[half], self.geometry, self.images.device
        plane = geometry.plane
        centred, ctf = self._centred(part)
        inverse = geometry.inside / reference.noise[group, plane.shell]
        slices = reference.spectrum.slices(self.views.rotations[part].to(device), plane)
        optics = self.views.ctf[group][part].to(device)
        own = ctf * ((reference.own / reference.noise[group])[plane.shell] * geometry.inside)
        envelope = ctf_envelope(optics, geometry.fy, geometry.fx)
        if envelope is not None:
            slices, own = slices * envelope[:, None], own * envelope
        conjugate = torch.stack([slices[:, 0], -slices[:, 1]], 1)
        mend = self._mend(group, changes).to(device)
        product = complex_product(complex_product(conjugate, centred) * inverse - _real(own), mend)
        basis = geometry.basis() * (math.pi * wavelength_angstrom(optics.voltage_kv))
        moved = torch.cat([changes.defocus_angstrom[part, None], changes.astigmatism_angstrom[part]], 1)
        phase = ctf_phase(optics, geometry.fy, geometry.fx) - moved.to(basis) @ basis
        return Match(product, slices.square().sum(1) * inverse, phase)

    def _mend(self, group: int, changes: Changes) -> Tensor:
        """Factor (2, M) that takes a group's further tilt and shift off its images."""
        geometry, optics = self.geometry, self.views.ctf[group]
        tilt = (float(changes.tilt_mrad[group, 0]), float(changes.tilt_mrad[group, 1]))
        phase = beam_tilt_phase(tilt, optics.voltage_kv, optics.cs_mm, geometry.fy, geometry.fx)
        turn = torch.stack([torch.cos(phase), torch.sin(phase)])
        return complex_product(turn, geometry.plane.phases(changes.shift_px[group].to(self.images.device)))


def _real(values: Tensor) -> Tensor:
    """Real numbers (B, M) as complex ones (B, 2, M)."""
    return torch.stack([values, torch.zeros_like(values)], 1)


def geometry_of(images: ImageSet, last_shell: int, lowest_resolution_angstrom: float) -> Geometry:
    """Pixels between the lowest frequency that counts and the last shell where the halves agree."""
    plane = images.plane(last_shell)
    extent = images.box * images.pixel_size_angstrom
    inside = (plane.radius >= extent / lowest_resolution_angstrom) & (plane.radius > 0.5)
    return Geometry(plane, extent, inside.float())


def filter_halves(
    halves: tuple[Tensor, Tensor], voxel_size_angstrom: float, diameter_angstrom: float
) -> tuple[tuple[Tensor, Tensor], Tensor, tuple[float, float]]:
    """References of both halves: each within its own solvent mask, weighted by the FSC as inside the particle.

    Returns
    -------
    The references, the weight of each shell up to the last before 0.143 (S,), and the means of the masks.
    """
    n = halves[0].shape[-1]
    radius = min(0.55 * diameter_angstrom / voxel_size_angstrom, n / 2 - 3)
    sphere = soft_sphere(n, radius, max(4.0, radius / 8), device=halves[0].device)
    curve = fsc(halves[0] * sphere, halves[1] * sphere)
    shell = first_below(curve.cpu(), 0.143) or len(curve)
    coarse = max(12.0, 1.5 * n * voxel_size_angstrom / max(shell, 1))
    masks = []
    for half in halves:
        found = solvent_mask(
            _filtered(half, curve, shell) * sphere, voxel_size_angstrom, lowpass_angstrom=coarse
        )
        masks.append(found.mask * sphere if found.found else sphere)
    share = max(float(mask.sum() / sphere.sum()) for mask in masks)
    inside = torch.where(curve > 0, curve / (curve + share * (1 - curve)), curve)
    last = first_below(inside.cpu(), 0.143) or len(inside)
    weight = inside.clamp(0, 1)[:last].clone()
    first, second = (_filtered(half, weight, last) * mask for half, mask in zip(halves, masks, strict=True))
    return (first, second), weight, (float(masks[0].mean()), float(masks[1].mean()))


def _filtered(volume: Tensor, weight: Tensor, last: int) -> Tensor:
    """Volume with each shell below ``last`` multiplied by its weight, the others removed."""
    n = volume.shape[-1]
    index = shell_index(n, device=volume.device)
    factors = torch.zeros(int(index.max()) + 1, device=volume.device)
    factors[:last] = weight[:last].clamp(min=0).float()
    return torch.fft.irfftn(torch.fft.rfftn(volume) * factors[index], s=(n, n, n))
