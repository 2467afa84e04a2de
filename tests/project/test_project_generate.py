"""What is generated from the settings is in step with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from emflow.config import load_settings, step_models, validate
from emflow.project import generate

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted(generate.generated(ROOT)), ids=lambda path: path.name)
def test_generated_files_are_in_step(path):
    assert path.read_text(encoding="utf-8") == generate.generated(ROOT)[path], "run `make generate`"


def test_every_key_stands_in_the_default_configuration_with_its_default():
    content = yaml.safe_load(generate.default_yaml())
    assert validate(content) == validate({})
    written = {
        f"{room}.{verb}" for room, verbs in content.items() if isinstance(verbs, dict) for verb in verbs
    }
    assert set(step_models()) <= written


def test_limits_are_said_in_words():
    field = step_models()["ctf.fit"].model_fields["patch_size"]
    assert "≤ 8192" in generate.limits(field)
    assert "a multiple of 2" in generate.limits(field)


def test_schema_refuses_what_the_settings_refuse():
    schema = generate.schema()
    assert schema["additionalProperties"] is False
    fit = schema["properties"]["ctf"]["properties"]["fit"]
    assert fit["additionalProperties"] is False
    assert "cs_mm" not in fit["properties"], "a fact of the sample stands once"


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_valid(path):
    load_settings(path)


def test_text_outside_the_marks_is_kept():
    page = f"before\n{generate.START}\nold\n{generate.END}\nafter\n"
    assert generate.between_marks(page, "new", Path("x.md")) == (
        f"before\n{generate.START}\n\nnew\n\n{generate.END}\nafter\n"
    )
    with pytest.raises(ValueError, match=r"x\.md"):
        generate.between_marks("no marks", "new", Path("x.md"))
