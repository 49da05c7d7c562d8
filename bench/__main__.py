"""`python -m bench run | aio | web | compare A B | list`."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from bench import aio, aio_tails, chart, environment, extras, goals, html, report, run, scenario, web
from bench import compare as comparing
from bench.contender import ContenderFailedError, told

HERE = Path(__file__).resolve().parent
QUICK = run.Options(rounds=1, seconds=0.3, budget=50.0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Measures the engine beside the bare device and beside other stores, in one run, interleaved."""


@cli.command("list")
def list_() -> None:
    """Print the scenarios, the further measurements and the contenders."""
    for item in scenario.everything():
        click.echo(f"{item.name:16} {item.describe()}")
    for extra in extras.EVERYTHING:
        click.echo(f"{extra.name:16} {extra.title}")
    for name, contender in run.contenders().items():
        try:
            state = contender.unavailable() or contender.version()
        except Exception as error:  # noqa: BLE001  (one that is broken does not hide the others)
            state = told(error)
        click.echo(f"{name:16} {state}; {contender.durability}")


@cli.command("run")
@click.option("--quick", is_flag=True, help="The first five goals against the cheap peers, once: under a minute.")
@click.option(
    "--scenario",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this scenario or measurement (repeatable; see `list`; prefix with * at the end).",
)
@click.option("--contender", "only", multiple=True, metavar="NAME", help="Only this contender (repeatable).")
@click.option("--rounds", type=click.IntRange(min=1), default=None, help="Turns of every contender  [default: 3]")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=None, help="Measured window of one turn  [default: 3]")
@click.option(
    "--budget",
    type=click.FloatRange(min=1),
    default=None,
    metavar="SECONDS",
    help="Begin no further turn after this time  [default: 3600]",
)
@click.option(
    "--soak",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Length of the memory soak.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where the data goes; its device is what is measured  [default: bench/out]",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where the report goes  [default: bench/out/<time>]",
)
@click.option(
    "--calm",
    type=click.FloatRange(min=0),
    default=None,
    metavar="SECONDS",
    help="Spend at most so long, in all, on waiting until nobody else works on this machine or its host, and on measuring"
    " again what they disturbed  [default: 600; with --quick 0]",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the shuffled order.")
def run_(
    quick: bool, names: tuple[str, ...], only: tuple[str, ...], rounds: int | None, seconds: float | None, budget: float | None,
    soak: float, directory: Path | None, output: Path | None, calm: float | None, seed: int,
) -> None:  # fmt: skip
    """Run scenarios; print tables, write result.json, percentiles and report.html."""
    base = QUICK if quick else run.Options()
    options = run.Options(rounds or base.rounds, seconds or base.seconds, budget or base.budget, seed, only)
    scenarios = [s for s in (scenario.quick() if quick and not names else scenario.everything()) if _wanted(s.name, names)]
    further = [] if quick and not names else [extra for extra in extras.EVERYTHING if _wanted(extra.name, names)]
    if not scenarios and not further:
        raise click.UsageError("no such scenario; see `python -m bench list`")
    if unknown := set(only) - run.contenders().keys():
        raise click.UsageError(f"no such contender: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what runs is taken down
    output = output or HERE / "out" / time.strftime("%Y%m%d-%H%M%S")
    output.mkdir(parents=True, exist_ok=True)
    with run.scratch(directory or HERE / "out") as scratch:
        patience = calm if calm is not None else 0.0 if quick else run.CALM_PATIENCE
        runner = run.Runner(options, scratch, output, run.progress, patience)
        result = _measure(runner, scenarios, further, extras.Settings(quick, soak))
    click.echo(report.goals_table(result["goals"]))
    click.echo(f"\n{output / 'report.html'}")


def _wanted(name: str, names: tuple[str, ...]) -> bool:
    return not names or any(name == n or (n.endswith("*") and name.startswith(n[:-1])) for n in names)


def _measure(
    runner: run.Runner, scenarios: list[scenario.Scenario], further: list[extras.Extra], settings: extras.Settings
) -> dict[str, Any]:
    with runner.host.charged():
        patience = min(runner.host.left, run.LOAD_PATIENCE)
        load_found = environment.calm(run.CALM_LOAD, patience, lambda text: click.echo(text, err=True))
    runner.say("describing this machine")
    result: dict[str, Any] = {
        "format": run.FORMAT, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": sys.argv[1:],
        "options": {"rounds": runner.options.rounds, "seconds": runner.options.seconds, "seed": runner.options.seed},
        "environment": {**environment.describe(runner.scratch), "load_found": load_found},
        "contenders": {}, "scenarios": {}, "extras": {}, "goals": [],
    }  # fmt: skip
    for key, value in result["environment"].items():
        click.echo(f"{key:16} {json.dumps(value) if isinstance(value, dict) else value}")
    if result["environment"]["load_before"] > run.CALM_LOAD:
        click.echo("! this machine is busy: the numbers of this run are worth little", err=True)
    if scenarios and not runner.hgrm:
        click.echo("! percentile files (*.hgrm) are not written: pip install hdrhistogram, or the extra `bench`", err=True)
    result["contenders"] = runner.prepare(scenarios)
    runner.say("")
    click.echo()
    for name, fact in result["contenders"].items():
        text = fact.get("durability") or f"not measured: {fact['not_measured']}"
        click.echo(f"{name:12} {fact.get('version', ''):30} {text}")
    for item in scenarios:
        result["scenarios"][item.name] = runner.measure(item)
        _mark_incomparable(result)
        runner.say("")
        click.echo(report.scenario_table(result["scenarios"][item.name], result["contenders"]))
        _keep(result, runner)
    for extra in further:
        if runner.over():
            result["extras"][extra.name] = {"not_measured": "time budget used up"}
            continue
        runner.host.settle()
        runner.say(f"{extra.name}: {extra.title}")
        result["extras"][extra.name] = found = extras.measured(extra, runner.scratch, settings, runner.say)
        runner.say("")
        click.echo(f"\n{extra.title}\n" + extras.text(found))
        _keep(result, runner)
    return result


def _mark_incomparable(result: dict[str, Any]) -> None:
    """A peer that does not sync is shown, and is nobody's best peer."""
    for cells in (item["contenders"] for item in result["scenarios"].values()):
        for name, cell in cells.items():
            if "NOT comparable" in (result["contenders"].get(name, {}).get("durability") or ""):
                cell["incomparable"] = True


def _keep(result: dict[str, Any], runner: run.Runner) -> None:
    result["environment"]["waited_for_calm_s"] = runner.host.waited
    result["goals"] = goals.judge(result)
    report.save(result, runner.output)


@cli.command("aio")
@click.option("--loop", type=click.Choice(["uvloop", "asyncio"]), default="uvloop", show_default=True)
@click.option("--part", "parts", multiple=True, type=click.Choice([*aio.PARTS, "tails"]), help="Only this (repeatable).")
@click.option("--contender", "only", multiple=True, type=click.Choice(aio.CONTENDERS), help="Only this one (repeatable).")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of every contender.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="Of one turn.")
@click.option("--tail-seconds", type=click.FloatRange(min=1), default=60.0, show_default=True, help="Of the tails.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where the data goes  [default: bench/out]",
)
@click.option("--json", "as_json", is_flag=True, help="All of it, as JSON.")
def aio_(
    loop: str, parts: tuple[str, ...], only: tuple[str, ...], rounds: int, seconds: float, tail_seconds: float,
    directory: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Awaited appends: beside a bridge of one thread and beside redis.asyncio; how long the loop is held; tails."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    wanted = parts or (*aio.PARTS, "tails")
    with run.scratch(directory or HERE / "out") as scratch:
        found = aio.measure(scratch, seconds, rounds, run.progress, loop, wanted, only or aio.CONTENDERS)
        if "tails" in wanted:
            found["tails"] = aio_tails.measure(scratch, tail_seconds, run.progress, loop)
    run.progress("")
    click.echo(json.dumps(found) if as_json else aio.tables(found))


@cli.command("web")
@click.option("--contender", "only", multiple=True, type=click.Choice(web.CONTENDERS), help="Only this one (repeatable).")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of every contender.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Of one turn.")
@click.option("--workers", type=click.IntRange(min=1), default=4, show_default=True, help="Processes of the service.")
@click.option("--connections", type=click.IntRange(min=1), default=64, show_default=True, help="Of the client, kept open.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where the data goes  [default: bench/out]",
)
@click.option("--json", "as_json", is_flag=True, help="All of it, as JSON.")
def web_(
    only: tuple[str, ...], rounds: int, seconds: float, workers: int, connections: int, directory: Path | None, as_json: bool
) -> None:
    """A web service that answers when the body is durable: beside redis.asyncio, and beside one that stores nothing."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    shape = web.Shape(seconds, workers, connections)
    try:
        with run.scratch(directory or HERE / "out") as scratch:
            found = web.measure(scratch, shape, rounds, run.progress, only or web.CONTENDERS)
    except ContenderFailedError as error:
        raise click.ClickException(str(error)) from None
    run.progress("")
    click.echo(json.dumps(found) if as_json else web.tables(found))


@cli.command()
@click.argument("before", type=click.Path(exists=True, path_type=Path))
@click.argument("after", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--fail",
    "limits",
    multiple=True,
    metavar="METRIC:PERCENT%",
    help="Exit with 1 if a metric got worse by more, for example p99:10%, or if A measured what B did not.",
)
@click.option("--contender", default=scenario.US, show_default=True, help="Whose numbers; `all` for everybody's.")
def compare(before: Path, after: Path, limits: tuple[str, ...], contender: str) -> None:
    """Compare two runs (their directories, or their result.json)."""
    old, new = (json.loads((path / "result.json" if path.is_dir() else path).read_text()) for path in (before, after))
    try:
        allowed = [comparing.Limit.parse(text) for text in limits]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    found = list(comparing.changes(old, new, None if contender == "all" else contender))
    lost = list(comparing.lost(old, new, None if contender == "all" else contender))
    if not found and not lost:
        raise click.ClickException("the two runs have nothing in common")
    rows: list[tuple[str, ...]] = [("scenario", "contender", "metric", "before", "after", "change")]
    for change in found:
        percent = 100 * (change.after - change.before) / change.before if change.before else 0.0
        rows.append(
            (
                change.scenario,
                change.contender,
                change.metric,
                report.number(change.before),
                report.number(change.after),
                f"{percent:+.1f} %",
            )
        )
    click.echo(report.table(rows))
    failed = comparing.failures(found, allowed)
    for change in failed:
        click.echo(
            f"worse than allowed: {change.scenario} {change.contender} {change.metric} by {100 * change.worse:.1f} %", err=True
        )
    for name, who, reason in lost:
        click.echo(f"measured before and not after: {name} {who}: {reason}", err=True)
    sys.exit(1 if failed or (lost and allowed) else 0)


@cli.command()
@click.argument("result", type=click.Path(exists=True, path_type=Path))
@click.argument("name")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
def picture(result: Path, name: str, target: Path) -> None:
    """Write one chart of a run as an SVG file that stands alone: a scenario's name, `writers`, `sizes` or `outstanding`."""
    found = json.loads((result / "result.json" if result.is_dir() else result).read_text())
    try:
        target.write_text(chart.alone(html.figure(found, name)))
    except KeyError:
        raise click.UsageError(f"the run has no {name}") from None


@cli.command("report")
@click.argument("result", type=click.Path(exists=True, path_type=Path))
def report_(result: Path) -> None:
    """Make report.html anew from a result.json (or the directory that holds it)."""
    path = result / "result.json" if result.is_dir() else result
    found = json.loads(path.read_text())
    found["goals"] = goals.judge(found)
    target = path.with_name("report.html")
    target.write_text(html.page(found))
    click.echo(target)


if __name__ == "__main__":
    cli(prog_name="python -m bench")
