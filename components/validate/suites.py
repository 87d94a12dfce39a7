"""Declared expectation suites, and Great Expectations running them on the table of facts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, ValidationError

from components.command import explain
from components.validate.drift import DRIFT_FACTS
from components.validate.facts import CASE_FACTS
from components.validate.relations import DATASET_FACTS, SITE_FACTS
from mira.cases import Record
from mira.errors import ConfigurationError
from mira.tasks import Modality, Task

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["must", "warn"]
About = Literal["case", "site", "dataset", "drift"]
FACTS: dict[About, dict[str, str]] = {
    "case": CASE_FACTS,
    "site": SITE_FACTS,
    "dataset": DATASET_FACTS,
    "drift": DRIFT_FACTS,
}
KEYS: dict[About, str] = {"case": "case_id", "site": "site", "dataset": "part", "drift": "id"}
"""The column that names a row; it is free of PHI."""


class Expectation(Record):
    """One expectation: a rule of Great Expectations on one fact, and what it means here.

    Attributes:
        code: short name, the reason that a refused case is listed with.
        says: one sentence for people: what must hold, and why.
        type: name of a Great Expectations expectation, e.g. `expect_column_values_to_be_in_set`.
        kwargs: its arguments; `column` names a fact.
        severity: `must` refuses the case, the site or the data set; `warn` only tells.
        source: where a threshold comes from.
    """

    code: str = Field(pattern=r"^[a-z0-9-]+$")
    says: str
    type: str
    kwargs: dict[str, Any]
    severity: Severity
    source: str = ""

    @property
    def bounds(self) -> str:
        """The rule for people, where it is a truth or a range; "" otherwise."""
        low, high = self.kwargs.get("min_value"), self.kwargs.get("max_value")
        if self.kwargs.get("value_set") == [True]:
            text = "true"
        elif low is not None and high is not None:
            text = f"from {low} to {high}"
        elif low is not None or high is not None:
            text = f"at least {low}" if high is None else f"at most {high}"
        else:
            return ""
        return text + (f", where {self.kwargs['row_condition']}" if "row_condition" in self.kwargs else "")


class Suite(Record):
    """One file of expectations.

    Attributes:
        name: name of the suite.
        about: what a row is: `case` (a series), `site`, `dataset` (the whole and each task), `drift` (a feature
            beside that of the last accepted data set).
        modality: only cases or features of this modality; all when left out.
        task: only cases that can be used for this task, or its row of the data set; all when left out.
        expectations: the rules.
    """

    name: str
    about: About
    modality: Modality | None = None
    task: Task | None = None
    expectations: list[Expectation] = Field(min_length=1)


class Outcome(Record):
    """What one expectation gave.

    Attributes:
        suite: name of its suite.
        about: what its rows are.
        code: the expectation's code.
        says: the expectation's sentence.
        severity: the expectation's severity.
        fact: the column it looked at.
        rule: type and arguments in one line.
        bounds: the same for people where it is a truth or a range.
        rows: rows whose fact is known; 0 means that the rule had nothing to check.
        failed: ids of the rows that broke it.
        source: where its threshold comes from.
    """

    suite: str
    about: About
    code: str
    says: str
    severity: Severity
    fact: str
    rule: str
    bounds: str
    rows: int
    failed: list[str]
    source: str = ""

    @property
    def status(self) -> str:
        """`not applicable`, `pass`, `warn` or `fail`."""
        if self.rows == 0:
            return "not applicable"
        return "pass" if not self.failed else {"must": "fail", "warn": "warn"}[self.severity]


def load_suites(folder: Path) -> list[Suite]:
    """Read and check every `*.yaml` of a folder.

    Raises:
        ConfigurationError: naming file and key, for a folder without suites, a typo, or a fact that does not exist.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ConfigurationError(
            f"{folder} holds no expectation suites (*.yaml). Set `validate.suites` to their folder."
        )
    suites = []
    for path in files:
        try:
            suite = Suite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{path}: not valid YAML: {error}") from error
        except ValidationError as error:
            raise ConfigurationError(explain(error, str(path))) from error
        known = FACTS[suite.about]
        for expectation in suite.expectations:
            column = expectation.kwargs.get("column")
            if column not in known:
                raise ConfigurationError(
                    f"{path}: expectation {expectation.code}: `column: {column}` is no fact about a {suite.about}. "
                    f"Choose one of: {', '.join(sorted(known))}."
                )
        suites.append(suite)
    return suites


class Checker:
    """Runs suites in one ephemeral Great Expectations context: nothing is stored, nothing is sent."""

    def __init__(self) -> None:
        import great_expectations as gx  # 4 s, and only this step needs it
        from great_expectations.data_context.types.base import ProgressBarsConfig

        self._gx = gx
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = ProgressBarsConfig(globally=False)
        self._source = self._context.data_sources.add_pandas("facts")

    @property
    def version(self) -> str:
        """Version of Great Expectations."""
        return str(self._gx.__version__)

    def run(self, suite: Suite, table: "pd.DataFrame") -> list[Outcome]:
        """Check a table of facts.

        Args:
            suite: the rules.
            table: one row per case, site, part of the data set or feature, with a column per fact.

        Returns:
            One outcome per expectation, in the order of the suite.

        Raises:
            ConfigurationError: for an expectation type or an argument that Great Expectations does not know.
        """
        if table.empty:
            return [_outcome(suite, expectation, 0, []) for expectation in suite.expectations]
        key = KEYS[suite.about]
        expectations = [self._rule(suite, expectation) for expectation in suite.expectations]
        rules = self._gx.ExpectationSuite(name=suite.name, expectations=expectations)
        asset = self._source.add_dataframe_asset(suite.name)
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
        form = {"result_format": "COMPLETE", "unexpected_index_column_names": [key]}
        failed: dict[str, list[str]] = {}
        for result in batch.validate(rules, result_format=form).results:
            code = result.expectation_config.meta["code"]
            detail = result.result
            if "unexpected_index_list" not in detail and not result.success:
                raise ConfigurationError(
                    f"Suite {suite.name}, expectation {code}: Great Expectations could not evaluate it row by row. "
                    "Use an `expect_column_values_...` type whose arguments fit the fact."
                )
            failed[code] = sorted({str(row[key]) for row in detail.get("unexpected_index_list") or []})
        known = table.notna().sum()
        return [_outcome(suite, e, int(known[e.kwargs["column"]]), failed[e.code]) for e in suite.expectations]

    def _rule(self, suite: Suite, expectation: Expectation) -> Any:
        from great_expectations.exceptions import GreatExpectationsError
        from great_expectations.expectations.registry import get_expectation_impl

        severity = {"must": "critical", "warn": "warning"}[expectation.severity]
        meta = {"code": expectation.code, "severity": expectation.severity, "source": expectation.source}
        try:
            kind = get_expectation_impl(expectation.type)
            return kind(**expectation.kwargs, description=expectation.says, severity=severity, meta=meta)
        except (GreatExpectationsError, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"Suite {suite.name}, expectation {expectation.code}: Great Expectations does not accept "
                f"`{expectation.type}` with {expectation.kwargs}: {error}"
            ) from error


def _outcome(suite: Suite, expectation: Expectation, rows: int, failed: list[str]) -> Outcome:
    arguments = ", ".join(f"{k}={v}" for k, v in expectation.kwargs.items() if k != "column")
    return Outcome(
        suite=suite.name,
        about=suite.about,
        code=expectation.code,
        says=expectation.says,
        severity=expectation.severity,
        fact=str(expectation.kwargs["column"]),
        rule=f"{expectation.type}({arguments})",
        bounds=expectation.bounds,
        rows=rows,
        failed=failed,
        source=expectation.source,
    )
