"""A specimen that varies: bodies, axes and compositions against exact sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emflow.device import generator
from emflow.em.fsc import fsc
from emflow.simulate.bodies import Bodies
from emflow.simulate.build import build_ensemble, extent
from emflow.simulate.config import SimulateParticles
from emflow.simulate.density import potential
from emflow.simulate.divide import compositions, contacts, divide
from emflow.simulate.ensemble import Conformations, Ensemble, Motion, State
from emflow.simulate.project import Projector, draw_rotations, random_rotations
from emflow.simulate.specimen import Atoms, generate_specimen, longest_radius
from emflow.step import EmflowError

PIXEL, BOX = 4.0, 48
SMALL = SimulateParticles(mass_kda=130, n_domains=4, diameter_angstrom=110)
HINGE = SMALL.model_copy(update={"n_angles": 1})


@pytest.fixture(scope="module")
def hinge() -> Ensemble:
    return build_ensemble(HINGE, [])


def test_decomposed_projection_is_that_of_the_moved_atoms(hinge: Ensemble) -> None:
    """Bodies projected at composed poses equal a volume made anew from the atoms where they moved to."""
    bodies = Bodies(hinge, BOX, PIXEL, 100.0, torch.device("cpu"))
    assert hinge.motion is not None
    assert hinge.states[0].moving is not None
    for angle in (35.0, 150.0, -80.0):
        one = Conformations(torch.zeros(1, dtype=torch.long), torch.tensor([[angle]], dtype=torch.float64))
        turn = hinge.motion.rotations(one.angle_deg)[0].numpy()
        pivot = hinge.motion.pivot
        moved = hinge.bodies[hinge.states[0].moving].moved(turn, pivot - turn @ pivot)
        fixed = hinge.bodies[hinge.states[0].fixed]
        volume = potential(fixed, BOX, PIXEL, 100.0) + potential(moved, BOX, PIXEL, 100.0)
        rotations, shifts = random_rotations(6, generator(1)), torch.rand(6, 2, generator=generator(2))
        exact = Projector(volume, PIXEL)(rotations, shifts)
        many = Conformations(one.state.expand(6), one.angle_deg.expand(6, 1))
        found = bodies.project(rotations, shifts, many)
        assert (found - exact).square().mean() < 2e-3 * exact.square().mean()
        assert fsc(bodies.volume(one), volume)[:20].min() > 0.99
        assert len(hinge.atoms(one).position) == len(fixed.position) + len(moved.position)


def test_the_mean_volume_is_the_mean_over_the_population(hinge: Ensemble) -> None:
    bodies = Bodies(hinge, BOX, PIXEL, 100.0, torch.device("cpu"))
    drawn = hinge.draw(30, generator(3))
    mean = torch.stack([bodies.volume(drawn[i : i + 1]) for i in range(30)]).mean(0)
    assert fsc(bodies.mean(), mean)[:8].min() > 0.96
    assert fsc(bodies.mean(), bodies.volume(drawn[:1]))[4:12].min() < 0.97


def test_motion_turns_about_its_pivot_by_its_angle() -> None:
    axes = np.array([[0.0, 0, 1], [1.0, 0, 0]])
    motion = Motion(np.array([5.0, -3, 2]), axes, np.array([360.0, 60.0]), False)
    turn = motion.rotations(torch.tensor([[90.0, 0.0], [0.0, 90.0], [90.0, 90.0]]))
    x, y, z = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(turn[0] @ x, y, atol=1e-12)  # right-handed about z
    assert torch.allclose(turn[1] @ y, z, atol=1e-12)
    assert torch.allclose(turn[2] @ y, z, atol=1e-12)  # about x first, then about z, which leaves it
    assert torch.allclose(turn[2] @ x, y, atol=1e-12)


@pytest.mark.parametrize("normal", [False, True])
def test_angles_and_states_are_drawn_as_asked(hinge: Ensemble, normal: bool) -> None:
    motion = Motion(np.zeros(3), np.eye(3)[:1], np.array([80.0]), normal)
    bodies = hinge.bodies[:1] * 2
    ensemble = Ensemble(bodies, (State(0), State(1), State(0, 1)), np.array([0.5, 0.3, 0.2]), motion)
    drawn = ensemble.draw(20000, generator(4))
    counts = np.bincount(drawn.state.numpy(), minlength=3) / 20000
    assert counts == pytest.approx([0.5, 0.3, 0.2], abs=0.015)
    angles = drawn.angle_deg[:, 0]
    assert float(angles.mean()) == pytest.approx(0, abs=0.8)
    assert float(angles.std()) == pytest.approx(20 if normal else 80 / np.sqrt(12), rel=0.03)
    if not normal:
        assert angles.abs().max() <= 40
    spread, weight = ensemble.spread(9)
    assert len(spread) == len(weight) == 27
    assert float(weight.sum()) == pytest.approx(1.0)
    first = spread.angle_deg[spread.state == 0, 0]
    assert float(first.std()) == pytest.approx(float(angles.std()), rel=0.12)


def test_a_moving_domain_turns_far_and_hits_little(hinge: Ensemble) -> None:
    from scipy.spatial import KDTree

    assert hinge.motion is not None
    assert hinge.states[0].moving is not None
    moving, fixed = hinge.bodies[hinge.states[0].moving], hinge.bodies[hinge.states[0].fixed]
    assert 0.1 < moving.mass_kda / (moving.mass_kda + fixed.mass_kda) < 0.45
    tree, clashes, moves = KDTree(fixed.position), [], []
    for angle in np.linspace(-170, 170, 8):
        turn = hinge.motion.rotations(torch.tensor([[angle]]))[0].numpy()
        at = moving.moved(turn, hinge.motion.pivot - turn @ hinge.motion.pivot).position
        clashes.append((tree.query(at)[0] < 2.0).mean())
        moves.append(np.sqrt(((at - moving.position) ** 2).sum(1).mean()))
    assert max(moves) > 25
    assert np.mean(clashes) < 0.15


def test_compositions_lack_more_and_more_and_hang_together() -> None:
    atoms = generate_specimen(130, 110, 4, np.random.default_rng(0))
    assert atoms.domain is not None
    touch = contacts(atoms)
    found = compositions(atoms, 5)
    assert found[0] == [0, 1, 2, 3]
    assert [len(f) for f in found] == sorted((len(f) for f in found), reverse=True)
    assert len({tuple(f) for f in found}) == 5
    assert all(0 in f for f in found)
    for f in found:  # from the first domain all others are reached
        reach = np.linalg.matrix_power(touch[np.ix_(f, f)].astype(int), len(f))
        assert reach[0].all()
    with pytest.raises(EmflowError, match="raise n_domains"):
        compositions(atoms, 20)
    ensemble = build_ensemble(
        SMALL.model_copy(update={"n_compositions": 3, "populations": (2.0, 1.0, 1.0)}), []
    )
    assert ensemble.populations.tolist() == [0.5, 0.25, 0.25]
    masses = [ensemble.bodies[s.fixed].mass_kda for s in ensemble.states]
    assert masses[0] > masses[2] > masses[1]  # the largest optional domain goes first
    assert ensemble.mean_mass_kda == pytest.approx(np.dot(masses, ensemble.populations))


def test_motion_and_compositions_go_together() -> None:
    cfg = SMALL.model_copy(update={"n_angles": 2, "n_compositions": 4, "n_domains": 5, "angle_range_deg": 60})
    ensemble = build_ensemble(cfg, [])
    assert len(ensemble.states) == 4
    assert ensemble.n_angles == 2
    bodies = Bodies(ensemble, BOX, PIXEL, 100.0, torch.device("cpu"))
    drawn = ensemble.draw(12, generator(5))
    images = bodies.project(random_rotations(12, generator(6)), torch.zeros(12, 2), drawn)
    mass = torch.tensor([sum(ensemble.bodies[b].mass_kda for b in (s.fixed, s.moving) if b is not None)
                         for s in ensemble.states])[drawn.state]  # fmt: skip
    assert np.corrcoef(images.sum((1, 2)).numpy(), mass.numpy())[0, 1] > 0.9
    diameter, radius = extent(ensemble)
    assert diameter <= 2 * radius
    assert radius >= longest_radius(ensemble.bodies[0])


def test_a_file_without_domains_is_divided_into_compact_ones() -> None:
    rng = np.random.default_rng(1)
    position = np.concatenate([rng.normal(0, 3, (60, 3)), rng.normal(0, 3, (30, 3)) + [25, 0, 0]])
    atoms = divide(Atoms(position, np.ones(90), np.zeros(90)), 2, 0)
    assert atoms.domain is not None
    assert atoms.domain.tolist() == [0] * 60 + [1] * 30  # the heaviest first


def test_preferred_views_have_their_concentration() -> None:
    kappa = 3.0
    rotations = draw_rotations(20000, kappa, generator(7))
    assert float(rotations[:, 2, 2].mean()) == pytest.approx(1 / np.tanh(kappa) - 1 / kappa, abs=0.01)
    assert rotations[:, 2, :2].mean(0).abs().max() < 0.02
    assert rotations[:, 0].mean(0).abs().max() < 0.02  # in-plane angles stay uniform
    assert torch.allclose(draw_rotations(9, 0.0, generator(8)), random_rotations(9, generator(8)))


def test_contradictions_are_refused() -> None:
    def ask(**settings: object) -> SimulateParticles:
        return SMALL.model_copy(update=settings)

    with pytest.raises(EmflowError, match="would lose it"):
        build_ensemble(ask(n_angles=1, symmetry="C3"), [])
    with pytest.raises(EmflowError, match="populations"):
        build_ensemble(ask(n_compositions=3, populations=(1.0,)), [])
    with pytest.raises(EmflowError, match="raise n_domains"):
        build_ensemble(ask(n_angles=1, n_domains=1), [])
