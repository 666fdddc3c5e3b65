"""Verbs of the laboratory: which experiments there are, and running one.

Responsible for options, progress and showing a report. Must not know any experiment.
"""

from typing import Annotated, Any

import typer
from rich.markup import escape

from layerlab.amounts import Gwei, show_amount
from layerlab.cli.common import Session, verb
from layerlab.cli.ending import ended_like_ctrl_c
from layerlab.cli.errors import CommandError
from layerlab.cli.output import duration
from layerlab.lab.experiment import Report, Trial, run_experiment
from layerlab.lab.experiments import EXPERIMENTS
from layerlab.models import MODELS, USUAL

lab_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Attack the models in the same ways, on real services, each with its negative control.",
)
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**53 - 1, help="Draws what is random.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    verb(lab_app, "list", ("as_json",))(lab_list)
    verb(lab_app, "run", ("as_json",))(lab_run)
    app.add_typer(lab_app, name="lab", rich_help_panel="Laboratory")


def lab_list(session: Session) -> None:
    """List the experiments, and for each model what is expected of it.

    Examples:
    layerlab lab list
    layerlab lab list --json
    """
    found = [
        {
            "experiment": experiment.name,
            "question": experiment.question,
            "hypothesis": dict(experiment.hypothesis),
            "control": dict(experiment.control),
        }
        for experiment in EXPERIMENTS.values()
    ]
    session.out.result(found, lambda: _show_list(session))


def _show_list(session: Session) -> None:
    for experiment in EXPERIMENTS.values():
        session.out.say(f"[bold]{escape(experiment.name)}[/]  {escape(experiment.question)}")
        for model, hypothesis in experiment.hypothesis.items():
            session.out.say(f"  {model}: {escape(hypothesis)}")
            session.out.say(f"  [dim]control: {escape(experiment.control[model])}[/]")
    session.out.say("\n[dim]layerlab lab run NAME --model MODEL[/]")


async def lab_run(
    session: Session,
    name: Annotated[str, typer.Argument(help="The experiment; see layerlab lab list.", metavar="NAME")],
    model: Annotated[
        str, typer.Option("--model", envvar="LAYERLAB_MODEL", help=f"{', '.join(MODELS)}.", metavar="MODEL")
    ] = USUAL,
    seed: Seed = 7,
) -> None:
    """Run an experiment and its negative control, each on services of its own that are gone after it.

    Exit code 0 only if the hypothesis held and the control showed the opposite.

    Examples:
    layerlab lab run burn-down --model optimistic
    layerlab lab run operator-censors --model sovereign --seed 42 --json
    """
    experiment = EXPERIMENTS.get(name)
    if experiment is None:
        known = list(EXPERIMENTS)
        raise CommandError(
            f"no experiment {name[:80]!r}; there are {', '.join(known)}", "unknown_experiment", known=known
        )
    if model not in experiment.hypothesis:
        known = list(experiment.hypothesis)
        raise CommandError(
            f"{name} is not for the model {model[:80]!r}; it is for {', '.join(known)}",
            "unknown_model",
            known=known,
        )
    session.on_interrupt = "nothing is left running"
    with ended_like_ctrl_c(), session.out.waiting() as waiting:
        report = await run_experiment(experiment, model, seed, waiting.now)
    session.out.result(report.to_json(), lambda: _show_report(session, report))
    if report.verdict != "confirmed":
        raise typer.Exit(1)


def _show_report(session: Session, report: Report) -> None:
    out, experiment = session.out, report.experiment
    out.say(f"[bold]{experiment.name}[/] on {report.model}, seed {report.seed}, run {report.run_id}")
    out.say(f"hypothesis: {escape(experiment.hypothesis[report.model])}")
    for trial in report.trials:
        _show_trial(session, trial, experiment.control[report.model])
    out.say(f"[bold]{report.verdict}[/]")


def _show_trial(session: Session, trial: Trial, switched_off: str) -> None:
    what = f"control ({escape(switched_off)})" if trial.control else "trial"
    if trial.seen is None:
        session.out.say(f"{what}: no answer: {escape(trial.error)}")
        return
    said = "held" if trial.seen.held else "did not hold"
    session.out.say(f"{what}: {said} in {duration(trial.seconds)}: {escape(trial.seen.told)}")
    figures = [f"{name.replace('_', ' ')} {_show(value)}" for name, value in trial.seen.measured.items()]
    if figures:
        session.out.say("  [dim]" + escape(", ".join(figures)) + "[/]")


def _show(value: Any) -> str:
    return show_amount(value) if isinstance(value, Gwei) else str(value)
