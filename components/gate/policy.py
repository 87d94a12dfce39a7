"""The gate policy: what may change, how it is proved, what it may harm. One YAML file, checked before use."""

import hashlib
from typing import Literal, Self, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from components.command import explain
from mira.cases import Record
from mira.errors import ConfigurationError
from mira.tasks import Task

Figure = Literal[
    "patients",
    "local_patients",
    "gain_db",
    "unified_minus_single_db",
    "unified_minus_champion_db",
    "local_minus_test_gain_db",
    "modality_accuracy",
    "clinical",
    "clinical_worst",
    "parity",
]


class Threshold(Record):
    """One finite bound. `above` is exclusive; `within` means between minus and plus the value."""

    above: float | None = Field(default=None, allow_inf_nan=False)
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    at_most: float | None = Field(default=None, allow_inf_nan=False)
    within: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or getattr(self, next(iter(self.model_fields_set))) is None:
            raise ValueError("give exactly one of: above, at_least, at_most, within; and with it a number")
        return self

    def met(self, value: float) -> bool:
        """Whether a figure keeps the bound."""
        return self.margin(value) > 0 if self.above is not None else self.margin(value) >= 0

    def margin(self, value: float) -> float:
        """How far a figure is on the good side; negative beyond the bound. The smallest margin is the worst."""
        if self.at_most is not None:
            return self.at_most - value
        if self.within is not None:
            return self.within - abs(value)
        lower = self.at_least if self.above is None else self.above
        assert lower is not None
        return value - lower

    def excludes(self, lower: float, upper: float) -> bool:
        """Whether no value between two bounds of a figure keeps this bound."""
        if self.within is not None and lower <= 0 <= upper:
            return False  # the value between them that is nearest to zero is zero
        return not self.met(lower) and not self.met(upper)

    def __str__(self) -> str:
        """In words, as reports print it."""
        if self.above is not None:
            return f"> {self.above:g}"
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else f"within ±{self.within:g}"


Set = Literal["test", "local"]


class Scope(Record):
    """Where a gate looks. Every stratum inside is judged alone, and the worst one decides."""

    tasks: list[Task] = Field(default_factory=lambda: list(Task), min_length=1)
    splits: list[Set] = Field(default_factory=lambda: list(get_args(Set)), min_length=1)


class Gate(Record):
    """One rule.

    Attributes:
        id: its name in decisions.
        says: what it protects, in one sentence.
        figure: what is measured; `clinical` and `clinical_worst` take the figure named by `measure`.
        measure: name of a clinical figure in `metrics.json`; only with these two.
        scope: tasks and splits; all when left out.
        threshold: the bound.
        unit: unit of figure and threshold.
        source: where the threshold comes from.
        severity: `must` refuses the candidate, `warn` only tells.
        minimum_patients: below this number of patients in a stratum the figure cannot support the claim: the rule is
            reported as not decidable there, which counts as a warning, unless its interval shows that it is missed.
        step: step that enforces the rule; the gate step itself unless said otherwise.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    says: str
    figure: Figure
    measure: str = ""
    scope: Scope = Scope()
    threshold: Threshold
    unit: str
    source: str
    severity: Literal["must", "warn"]
    minimum_patients: int = Field(default=1, ge=1)
    step: Literal["gate", "export"] = "gate"

    @model_validator(mode="after")
    def _measure(self) -> Self:
        if (self.figure in ("clinical", "clinical_worst")) != bool(self.measure):
            raise ValueError(
                "`measure` names the figure of `clinical` and `clinical_worst`, and goes with no other figure"
            )
        if (self.figure == "parity") != (self.step == "export"):
            raise ValueError("parity is measured by the export step: `figure: parity` goes with `step: export`")
        return self


class Changes(Record):
    """Part 1: description of modifications."""

    may_change: list[str] = Field(min_length=1)
    must_not_change: list[str] = Field(min_length=1)


class Protocol(Record):
    """Part 2: modification protocol."""

    profile: str
    gates: list[Gate] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> Self:
        ids = [gate.id for gate in self.gates]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"gate ids must be unique, but these appear twice: {', '.join(twice)}")
        if not any(gate.severity == "must" and gate.step == "gate" for gate in self.gates):
            raise ValueError("no gate has `severity: must`; such a policy approves everything")
        return self


class Impact(Record):
    """Part 3: one risk of a modification and the gates that control it; none means that it is not controlled yet."""

    risk: str
    harm: str
    controlled_by: list[str]
    remaining: str = ""


class Policy(Record):
    """The whole file."""

    version: int
    changes: Changes
    protocol: Protocol
    impact: list[Impact] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = {gate.id for gate in self.protocol.gates}
        unknown = sorted({i for impact in self.impact for i in impact.controlled_by} - known)
        if unknown:
            raise ValueError(f"impact is controlled by gates that do not exist: {', '.join(unknown)}")
        return self


def load_policy(text: str) -> Policy:
    """Read and check the text of a policy.

    Raises:
        ConfigurationError: naming the key, what is wrong with it and the allowed values.
    """
    try:
        return Policy.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"The gate policy is not valid YAML: {error}") from error
    except ValidationError as error:
        raise ConfigurationError(explain(error, "gate policy")) from error


def policy_hash(text: str) -> str:
    """SHA-256 of the policy's text, as decisions name it."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
