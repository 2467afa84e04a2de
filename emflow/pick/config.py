"""Settings of the pick room."""

from emflow.step import StepConfig

STEPS: dict[str, type[StepConfig]] = {}
