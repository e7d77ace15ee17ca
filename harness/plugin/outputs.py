"""Makes the run's outputs at its end: samples, report, benchmark file, comparison."""

# ruff: noqa: PLC0415 - reports need jinja2 and the like, which a run without a report never loads
from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.plugin.context import RunContext
from harness.plugin.session_report import SessionReport

if TYPE_CHECKING:
    from harness.plugin.gate import Gate
    from harness.plugin.recorder import Recorder
    from harness.results.schema import RunFacts


@dataclass
class Outputs:
    """Files of a run, lines for the terminal, and errors.

    samples, report, consolidation, comparison, benchmark: paths; "" for none. figures: lines on
    the figures. compared: lines on the comparison with the baseline. regressed: how many figures
    regressed. has_power: whether the comparison can show a single regressed figure. problems: what
    could not be written.
    """

    samples: str = ""
    report: str = ""
    consolidation: str = ""
    comparison: str = ""
    benchmark: str = ""
    figures: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    regressed: int = 0
    has_power: bool = False
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """As plain data, which a pytest-xdist worker can send."""
        return dict(json.loads(json.dumps(self.__dict__)))


def write_outputs(
    context: RunContext,
    recorder: Recorder,
    gate: Gate | None,
    report: SessionReport,
    exit_status: int,
) -> Outputs:
    """Write all outputs of a run. Never raises: see Outputs.problems."""
    outputs = Outputs()
    if recorder.problem:
        outputs.problems.append(recorder.problem)
    try:
        parquet = recorder.close(_end_facts(context, recorder, report, exit_status))
    except HarnessError as error:
        outputs.problems.append(f"samples: {error}")
        return outputs
    outputs.samples = str(parquet)
    if context.settings.remote is not None:
        try:
            context.settings.remote.push()
        except HarnessError as error:
            outputs.problems.append(f"samples: {error}")
    _write_reports(context, parquet, outputs)
    if gate is not None:
        _compare(context, gate, parquet, outputs)
    return outputs


def _end_facts(
    context: RunContext, recorder: Recorder, report: SessionReport, exit_status: int
) -> RunFacts:
    facts: RunFacts = {
        "exit_status": exit_status,
        "outcomes": dict(recorder.outcomes),
        "failures": dict(recorder.failures),
        "stages": {name: round(took, 3) for name, took in context.progress.stages.items()},
        "notes": [*report.notes, *(f"left behind: {leak}" for leak in report.leaks)],
    }
    if recorder.images:
        facts["image"] = recorder.images
    return facts


def _write_reports(context: RunContext, parquet: Path, outputs: Outputs) -> None:
    """Write each report. An error of one must not lose the samples or the other ones."""
    settings, folder = context.settings, context.run_directory

    def benchmark() -> None:
        from harness.results.exchange.benchmark_json import write

        outputs.benchmark = str(write(parquet, folder / "benchmark.json"))

    def html() -> None:
        from reports import consolidation
        from reports.page import Run
        from reports.render import write
        from reports.run import to_html

        out = settings.report or folder / "report.html"
        out.parent.mkdir(parents=True, exist_ok=True)
        run = Run.read(parquet)
        outputs.report = str(write(to_html(run, parquet), out))
        if consolidation.has_consolidation(run):
            page = out.with_name("consolidation.html")
            outputs.consolidation = str(write(consolidation.to_html(run, parquet), page))

    def figures() -> None:
        from reports.terminal import lines

        outputs.figures = list(lines(parquet))

    steps = [("pytest-benchmark JSON", benchmark), ("figures", figures)]
    if not settings.no_report:
        steps.append(("report", html))
    folder.mkdir(parents=True, exist_ok=True)
    for name, step in steps:
        try:
            step()
        except Exception as error:
            outputs.problems.append(f"{name}: {type(error).__name__}: {error}")


def _compare(context: RunContext, gate: Gate, parquet: Path, outputs: Outputs) -> None:
    """Compare with the baseline. An error of the comparison fails only a session with
    --virt-gate=fail."""
    from harness.plugin.gate import lines

    settings = context.settings
    try:
        comparison = gate.compare(parquet)
    except Exception as error:  # any error: the samples are already written
        target = outputs.problems if settings.gate == "fail" else outputs.compared
        cause = error if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
        target.append(f"comparison: {cause}")
        return
    outputs.compared, outputs.regressed = list(lines(comparison)), comparison.counts["regressed"]
    outputs.has_power = comparison.has_power
    if settings.no_report:
        return
    try:
        from reports.compare import render

        page = context.run_directory / "compare.html"
        outputs.comparison = str(render(comparison, page))
    except Exception as error:
        outputs.problems.append(f"comparison: {type(error).__name__}: {error}")
