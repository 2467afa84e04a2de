"""Settings of the extract room."""

from emflow.step import StepConfig

STEPS: dict[str, type[StepConfig]] = {}
