"""One set of weights for gaps of every factor, learned from isotropic volumes.

The networks of two factors differ in their last layer alone, which has an output for each missing row. So the
convolutions are shared by all factors, and each has biases and a last layer of its own: together little larger than
one network. What is taken out for a factor is a plain network, which restores or is trained further.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from emflow.device import generator
from emflow.nn.train import Checkpoint, Plan, train
from emflow.vem.config import VemPretrain
from emflow.vem.crops import Isotropic, crop_shape, draw
from emflow.vem.gaps import between, divide, fold, neighbours
from emflow.vem.model import Filler, build
from emflow.vem.train import loss_of_residual

FACTORS = range(2, 17)
_WEIGHTS = torch.tensor([3.0 if 3 <= factor <= 8 else 1.0 for factor in FACTORS])
"""How often a factor is drawn: the usual ones more often."""
_INVERTED = 0.25
"""Part of the crops whose contrast is inverted."""
_JUDGED_CROPS = 48


class GeneralFiller(nn.Module):
    """Networks for all factors that share their convolutions."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self._plans = {factor: build(factor) for factor in FACTORS}
        first = dict(build(FACTORS[0]).named_parameters())
        self.shared = nn.ParameterDict({_flat(n): p for n, p in first.items() if _is_shared(n)})
        self.own = nn.ModuleDict()
        for factor, plan in self._plans.items():
            mine = {_flat(n): torch.zeros(p.shape) for n, p in plan.named_parameters() if not _is_shared(n)}
            self.own[str(factor)] = nn.ParameterDict(mine)

    def forward(self, x: Tensor, factor: int) -> Tensor:
        """What the network for a factor says."""
        return functional_call(self._plans[factor], state_of(dict(self.named_parameters()), factor), (x,))


def state_of(general: dict[str, Tensor], factor: int) -> dict[str, Tensor]:
    """Weights of the plain network for a factor (:func:`emflow.vem.model.build`) out of those for all."""
    found = {}
    for name, values in general.items():
        if name.startswith(("shared.", f"own.{factor}.")):
            found[name.rsplit(".", 1)[1].replace("/", ".")] = values
    return found


def _is_shared(name: str) -> bool:
    return name.endswith("weight") and not name.startswith("last")


def _flat(name: str) -> str:
    return name.replace(".", "/")


def pretrain(
    volumes: Sequence[Isotropic], cfg: VemPretrain, device: torch.device, checkpoint: Checkpoint | None = None
) -> GeneralFiller:
    """Train on isotropic volumes; each step has one factor."""
    side = min(min(volume.views[0].shape) for volume in volumes)

    def loss_of(net: nn.Module, step: int, part: slice) -> Tensor:
        rng = generator(cfg.seed, 44, step)
        factor = FACTORS[int(torch.multinomial(_WEIGHTS, 1, generator=rng))]
        shape = crop_shape(side, factor, cfg.crop_px)
        planes, spreads = draw(volumes, factor, cfg.batch, shape, rng)
        signs = torch.where(torch.rand(cfg.batch, 1, 1, generator=rng) < _INVERTED, -1.0, 1.0)
        planes, spreads = (planes * signs)[part].to(device), spreads[part].to(device)
        rows, missing = divide(planes, factor)
        target = fold((missing - between(rows, factor)) / spreads[:, None, None, None])
        # half precision halves the time, and its rounding is small beside what is learned from
        with torch.autocast(device.type, torch.bfloat16):
            out = net(neighbours(rows).contiguous(memory_format=torch.channels_last), factor)
        return loss_of_residual(out.float(), target) * (len(planes) / cfg.batch)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        network = GeneralFiller()
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    plan = Plan(cfg.steps, cfg.batch, cfg.learning_rate, averaging=0.998)
    found = train(network.to(device), loss_of, plan, checkpoint).network
    assert isinstance(found, GeneralFiller)
    return found


@torch.no_grad()
def gain_db(
    network: GeneralFiller, volume: Isotropic, factor: int, cfg: VemPretrain, device: torch.device
) -> float:
    """PSNR above linear interpolation on planes of a volume that was not learned from, in decibel."""
    plain = build(factor).to(device).eval()
    plain.load_state_dict(state_of(network.state_dict(), factor))
    filler = Filler(plain, factor, 0.0, 1.0, volume.spreads[factor])
    shape = crop_shape(min(volume.views[0].shape), factor, cfg.crop_px)
    planes, _ = draw([volume], factor, _JUDGED_CROPS, shape, generator(cfg.seed, 45, factor))
    rows, missing = divide(planes.to(device), factor)
    errors = [(missing - guess).square().mean() for guess in (between(rows, factor), filler.predict(rows)[0])]
    return float(10 * torch.log10(errors[0] / errors[1]))
