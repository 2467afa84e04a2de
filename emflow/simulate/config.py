"""Settings of the simulate room."""

from emflow.step import StepConfig

STEPS: dict[str, type[StepConfig]] = {}
