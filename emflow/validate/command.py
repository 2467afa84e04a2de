"""Commands of the validate room: files in, files out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from emflow.device import prepare
from emflow.em.local_resolution import windowed_resolution
from emflow.io.mrc import read_header, read_mrc
from emflow.io.particles import load_particles
from emflow.io.record import Record, verdict, write_metrics, write_verdicts
from emflow.io.star import write_star
from emflow.step import EmflowError, Run
from emflow.validate.assess import Evidence, assess
from emflow.validate.assess_images import FEWEST, assess_images
from emflow.validate.config import (
    NoiseCompare,
    NoiseControl,
    ValidateLocal,
    ValidateMaps,
    ValidateParticles,
    ValidateStates,
)
from emflow.validate.inputs import (
    Mask,
    check_headers,
    check_pixels,
    image_sizes,
    read_model,
    read_pair,
    read_particles,
    read_single,
    read_states,
    read_verdicts,
    read_volume,
)
from emflow.validate.inputs_images import (
    check_same_box,
    control_start,
    fewest_of_half,
    mask_of,
    read_control,
    read_data,
    read_posed,
)
from emflow.validate.inputs_records import read_proof
from emflow.validate.judge_local import FILTERED_MAP, find_local, nothing_local
from emflow.validate.local_single import monogenic_resolution
from emflow.validate.noise_control import assess_control, compare_control
from emflow.validate.outputs import write_empty, write_finding, write_results
from emflow.validate.outputs_images import write_control, write_few_images, write_images
from emflow.validate.states import judge_state, judge_states, state_metrics, state_table

log = logging.getLogger("emflow")


def maps(
    half1: Path,
    half2: Path,
    out: Path,
    /,
    *,
    cfg: ValidateMaps = ValidateMaps(),
    run: Run = Run(),
    map_: Annotated[Path | None, Parameter(name="--map")] = None,
    mask: Path | None = None,
    model: Path | None = None,
    particles: Path | None = None,
    reconstruct: Path | None = None,
) -> None:
    """Judge two half maps: FSC, resolution, mask, half-sets, angular distribution, hand, atomic model.

    Parameters
    ----------
    half1
        Raw half map (MRC): unfiltered, unmasked, as a refinement ends with it.
    half2
        The other half.
    out
        Folder to write: validation.json, fsc.star, metrics.json, verdicts.json, figures.
    map_
        Combined map, for the pictures; by default the mean of the halves.
    mask
        Mask with values 0 to 1 (MRC); by default one is made from the mean of the halves.
    model
        Atomic model (PDB or mmCIF), which is placed as a rigid body if need be.
    particles
        Particle STAR with angles and half-sets.
    reconstruct
        Folder of the reconstruction, whose verdicts are taken into account.
    """
    device = prepare(run, gpu=False)
    given = [path for path in (half1, half2, map_, mask, model, particles) if path is not None]
    with Record("validate.maps", cfg, run, inputs=given):
        headers = [read_header(half1), read_header(half2)]
        voxel = check_headers((half1, half2), headers, cfg.voxel_size_angstrom)
        halves = [torch.from_numpy(read_mrc(path)).to(device) for path in (half1, half2)]
        table, optics = read_particles(particles)
        quoted = read_verdicts(reconstruct)
        if not any(bool(half.any()) for half in halves):
            write_empty(out, len(table) if table is not None else None)
            return
        check_pixels((half1, half2), halves)
        mean = (halves[0] + halves[1]) / 2
        evidence = Evidence(
            paths=(half1, half2),
            halves=(halves[0], halves[1]),
            mean=read_volume(map_, headers[0], device) if map_ else mean,
            voxel_size_angstrom=voxel,
            mask=Mask.read(mask, headers[0], voxel, device) if mask else Mask.make(mean, voxel, cfg),
            particles=table,
            optics=optics,
            quoted=quoted,
            unrestored=[header.unrestored for header in headers],
            model=read_model(model, headers[0], voxel) if model else None,
            model_path=model,
            images=image_sizes(optics),
            proof=read_proof(reconstruct, (half1, half2)),
        )
        found = assess(evidence, cfg)
        write_finding(out, found, voxel, unrestored=all(evidence.unrestored))
        log.info("%s", found.judgements[0].evidence)


def states(
    analysis: Path,
    out: Path,
    /,
    *,
    cfg: ValidateStates = ValidateStates(),
    run: Run = Run(),
    mask: Path | None = None,
) -> None:
    """Judge each state of a heterogeneity analysis by its own half maps.

    Parameters
    ----------
    analysis
        Folder of `emflow heterogeneity analyze`, with states/NN/half1.mrc and half2.mrc.
    out
        Folder to write: states.star, metrics.json, verdicts.json.
    mask
        Mask with values 0 to 1 (MRC); by default each state's own.
    """
    device = prepare(run, gpu=False)
    with Record("validate.states", cfg, run, inputs=[analysis / "latents.star"]):
        found = [judge_state(state, cfg) for state in read_states(analysis, mask, cfg, device)]
        judgement = judge_states(found)
        write_star(out / "states.star", {"states": state_table(found)})
        write_verdicts(out / "verdicts.json", [verdict(*judgement)])
        write_metrics(out / "metrics.json", state_metrics(found))
        log.info("%s", judgement.evidence)


def local(
    *paths: Path,
    cfg: ValidateLocal = ValidateLocal(),
    run: Run = Run(),
    map_: Annotated[Path | None, Parameter(name="--map")] = None,
    mask: Path | None = None,
) -> None:
    """Local resolution of two half maps (HALF1 HALF2 OUT) or of one map (MAP OUT --method monogenic).

    Parameters
    ----------
    paths
        Two raw half maps, or one raw map, and last the folder to write: local_resolution.mrc, local_filtered.mrc,
        metrics.json, verdicts.json, validation.json, figures.
    map_
        Combined map, to be shown and filtered; by default the mean of the halves.
    mask
        Mask with values 0 to 1 (MRC); by default one is made from the map.
    """
    if len(paths) not in (2, 3):
        raise EmflowError(
            f"{len(paths)} paths; expected HALF1 HALF2 OUT, or MAP OUT with --method monogenic."
        )
    *maps_, out = paths
    if len(maps_) == 1 and cfg.method != "monogenic":
        raise EmflowError(f"{maps_[0]}: one map alone has no FSC; give two half maps, or --method monogenic.")
    device = prepare(run, gpu=False)
    given = [path for path in (*maps_, map_, mask) if path is not None]
    with Record("validate.local", cfg, run, inputs=given):
        halves, noise = None, None
        if len(maps_) == 2:
            halves, header, voxel = read_pair((maps_[0], maps_[1]), cfg.voxel_size_angstrom, device)
            mean, noise = (halves[0] + halves[1]) / 2, (halves[0] - halves[1]) / 2
        else:
            mean, header, voxel = read_single(maps_[0], cfg.voxel_size_angstrom, device)
        if not all(bool(volume.any()) for volume in halves or (mean,)):
            write_results(out, *nothing_local(), {})
            return
        weight = (Mask.read(mask, header, voxel, device) if mask else Mask.make(mean, voxel, cfg)).values
        if cfg.method == "halves" and halves is not None:
            found = windowed_resolution(*halves, weight, voxel, cfg)
        else:
            found = monogenic_resolution(mean, noise, weight, voxel, cfg)
        shown = read_volume(map_, header, device) if map_ else mean
        finding = find_local(shown, found, weight, voxel, cfg)
        write_finding(out, finding, voxel, restored=(FILTERED_MAP,))
        log.info("%s", finding.judgements[0].evidence)


def particles(
    star: Path,
    half1: Path,
    half2: Path,
    out: Path,
    /,
    *,
    cfg: ValidateParticles = ValidateParticles(),
    run: Run = Run(),
    mask: Path | None = None,
) -> None:
    """Judge a map by the raw images: over-fitting, the agreement of each image, resolution against number.

    Parameters
    ----------
    star
        Particle STAR with images, CTF, poses and half-sets, as the refinement of the half maps wrote it.
    half1
        Raw half map (MRC).
    half2
        The other half.
    out
        Folder to write: particles.star (with the images' agreement), outliers.star, rings.star, validation.json,
        metrics.json, verdicts.json, figures.
    mask
        Mask with values 0 to 1 (MRC); by default one is made from the mean of the halves.
    """
    device = prepare(run)
    with Record("validate.particles", cfg, run, inputs=[star, half1, half2, *([mask] if mask else [])]):
        source = read_data(star)
        halves, _, voxel = read_pair((half1, half2), cfg.voxel_size_angstrom, device)
        if fewest_of_half(source) < FEWEST or not all(bool(half.any()) for half in halves):
            write_few_images(out, source)
            return
        posed = read_posed(star, source, cfg.symmetry, device)
        check_same_box((half1, half2), halves[0].shape, voxel, posed)
        soft = mask_of(mask, half1, halves, voxel, cfg)
        found, agreement, outliers = assess_images(posed, halves, soft.values, cfg)
        write_images(out, source, found, agreement, outliers, voxel)
        log.info("%s", found.judgements[0].evidence)


def noise_control(
    star: Path,
    out: Path,
    /,
    *,
    cfg: NoiseControl = NoiseControl(),
    run: Run = Run(),
    half1: Path | None = None,
    half2: Path | None = None,
) -> None:
    """Replace the fine detail of every image by noise, for a refinement that should find nothing there.

    Parameters
    ----------
    star
        Particle STAR with images.
    out
        Folder to write: particles.star and particles.mrcs, both marked as a noise control.
    half1
        Half map (MRC); it and the next say from which resolution on, where --from-angstrom does not.
    half2
        The other half.
    """
    device = prepare(run, gpu=False)
    halves = (half1, half2) if half1 and half2 else None
    with Record("validate.noise_control", cfg, run, inputs=[star, *(halves or ())]):
        write_control(out, star, read_data(star), control_start(cfg, halves, device), cfg.seed)


def noise_compare(
    refined: Path,
    control: Path,
    out: Path,
    /,
    *,
    cfg: NoiseCompare = NoiseCompare(),
    run: Run = Run(),
    mask: Path | None = None,
) -> None:
    """Compare the half maps of a refinement with those of its noise control.

    Parameters
    ----------
    refined
        Folder of the refinement: half1.mrc, half2.mrc.
    control
        Folder of the refinement, with the same settings and start, of the stack that `noise-control` wrote.
    out
        Folder to write: validation.json, metrics.json, verdicts.json, fsc.star, figures.
    mask
        Mask with values 0 to 1 (MRC); by default one is made from the mean of the halves.
    """
    device = prepare(run, gpu=False)
    pairs = [(folder / "half1.mrc", folder / "half2.mrc") for folder in (refined, control)]
    with Record("validate.noise_compare", cfg, run, inputs=[path for pair in pairs for path in pair]):
        halves, _, voxel = read_pair(pairs[0], cfg.voxel_size_angstrom, device)
        noise = read_control(pairs[1], device)
        start = load_particles(control / "particles.star", images=False).control_angstrom
        if (
            start is None
            or halves[0].shape != noise[0].shape
            or not all(bool(h.any()) for h in (*halves, *noise))
        ):
            raise EmflowError(
                f"{control}: not the refinement of a noise control of {refined}, or without particles."
            )
        soft = mask_of(mask, pairs[0][0], halves, voxel, cfg)
        found = assess_control(compare_control(halves, noise, soft.values, voxel, start, cfg))
        write_finding(out, found, voxel)
        log.info("%s", found.judgements[0].evidence)
