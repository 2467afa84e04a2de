"""Commands of the classify room: files in, files out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emflow.classify import judge
from emflow.classify.config import ClassifyRun, ClassifySelect
from emflow.classify.inputs import FEWEST, read_labels, read_run
from emflow.classify.measure import measure_classes, measure_particles
from emflow.classify.outputs import write_no_run, write_run, write_selection
from emflow.classify.run import Classification
from emflow.classify.select import Ranked, Selection
from emflow.classify.select import select as choose
from emflow.device import prepare
from emflow.io.particle_images import image_set
from emflow.io.particles import load_half_sets
from emflow.io.record import Record
from emflow.step import EmflowError, Run


def run(particles: Path, out: Path, /, *, cfg: ClassifyRun = ClassifyRun(), run: Run = Run()) -> None:
    """Sort particle images into classes of like views, and average each.

    Parameters
    ----------
    particles
        Particle STAR with CTF and images.
    out
        Folder to write: classes.mrcs, classes.star, particles.star with class, in-plane pose and figures.
    """
    device = prepare(run)
    with Record("classify.run", cfg, run, inputs=[particles]):
        source = load_half_sets(particles)
        if len(source) < FEWEST:
            write_no_run(out, source)
            return
        images = image_set(source, device)
        extent = images.box * images.pixel_size_angstrom
        diameter = cfg.diameter_angstrom or extent * 2 / 3
        if diameter > extent:
            raise EmflowError(
                f"sample.diameter_angstrom is {diameter:g}, but the boxes are only {extent:.0f} Å wide. "
                "Extract with a larger box (extract.run.box_size_px), or correct the diameter."
            )
        classification = Classification(images, diameter, cfg)
        found = classification.run()
        classes = measure_classes(found, diameter / images.pixel_size_angstrom, images.pixel_size_angstrom)
        write_run(out, source, found, classes, measure_particles(found, classification.first))


def select(
    classified: Path, out: Path, /, *, cfg: ClassifySelect = ClassifySelect(), run: Run = Run()
) -> None:
    """Choose classes and particles; a person's labels win.

    Parameters
    ----------
    classified
        Folder that ``classify run`` wrote.
    out
        Folder to write: classes.star with scores and reasons, classes.mrcs, selected.star, removed.star,
        metrics.json, verdicts.json, figures/classes.png.
    """
    prepare(run, gpu=False)
    person = Path(cfg.labels)
    given = [person] if cfg.labels and person.is_file() else []
    with Record("classify.select", cfg, run, inputs=[classified / "particles.star", *given]):
        found = read_run(classified)
        count = len(found.number)
        if not len(found.averages):
            everything = np.ones(count, dtype=bool)
            nothing = Ranked(np.zeros(0), [])
            selection = Selection(everything, [""] * count, np.zeros(0, dtype=bool), nothing, 0)
            write_selection(out, found, selection, judge.too_few(count))
            return
        labels = read_labels(person, len(found.averages)) if given else {}
        selection = choose(found.number, found.classes, found.particles, cfg, labels)
        judgements = [
            *judge.judge_classes(found.classes, found.particles),
            *judge.judge_selection(selection),
        ]
        write_selection(out, found, selection, judgements)
