"""The weights that emflow ships are those that their manifest and their recipe tell of."""

from __future__ import annotations

import json

from emflow.nn.weights import manifest_path, read_model
from emflow.vem.config import VemPretrain
from emflow.vem.general import FACTORS, GeneralFiller
from emflow.vem.inputs import GENERAL, GENERAL_KIND
from emflow.vem.weights import make_general


def test_the_manifest_has_the_file_s_checksum_and_the_recipe_s_settings():
    model = read_model(GENERAL)  # refuses another checksum
    assert model.network == {"kind": GENERAL_KIND, "factors": list(FACTORS)}
    GeneralFiller().load_state_dict({name: values.float() for name, values in model.state.items()})
    manifest = json.loads(manifest_path(GENERAL).read_text(encoding="utf-8"))
    assert manifest["licence"] == "BSD-3-Clause"
    assert "note" not in manifest, "made by the recipe as it stands"
    words = make_general.TRAINING
    told = {key.removeprefix("--"): int(value) for key, value in zip(words[::2], words[1::2], strict=True)}
    assert model.facts["settings"] == VemPretrain(**told).model_dump(mode="json")
    metrics = model.facts["metrics"]
    assert metrics["volumes"] + metrics["unseen"] == len(make_general.VOLUMES)
    assert all(metrics[f"gain_x{factor}_db"] > 1.0 for factor in FACTORS)
