"""What the benchmark makes of its numbers: statistics, goals, comparison, report. No speeds."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import xml.etree.ElementTree as ET
from array import array
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import compare, environment, html, html_model, run, stats
from bench.__main__ import cli
from bench.scenario import ALL_STREAMS, HOT, SOME_STREAMS, everything
from tests.support.bench_fakes import S, cell, result


def test_no_percentile_is_given_that_the_samples_do_not_support() -> None:
    hundred = stats.latency_us(range(1000, 101_000, 1000))
    assert (hundred["p50"], hundred["p99"], hundred["max"], hundred["n"]) == (50.0, 99.0, 100.0, 100)
    assert "p999" not in hundred
    assert stats.latency_us([]) == {"n": 0}
    assert stats.latency_us(range(1000))["p999"] == 0.998


def test_the_timeline_puts_each_sample_into_its_slice() -> None:
    samples = array("Q", [5000, S, 7000, 2 * S])
    assert [(round(t), p50, most) for t, p50, _, most in stats.timeline_us(samples, 0)] == [(1, 5, 5), (2, 7, 7)]


def verdicts(found: dict[str, Any]) -> dict[int, str]:
    return {goal["number"]: goal["verdict"] for goal in found["goals"]}


def test_goals_take_ratios_inside_the_run_and_do_not_invent_what_is_missing() -> None:
    found = result(
        one={"ringwal": cell(1, p50=124, p99=290), "device": cell(1, p50=100, p99=200)},
        sixteen={"ringwal": cell(400, p50=100, p99=400, fairness=0.8), "sqlite": cell(100), "lmdb": cell(90)},
    )
    assert verdicts(found) == {1: "yes", 2: "yes"} | dict.fromkeys(range(3, 13), "not measured")
    slower = result(
        one={"ringwal": cell(1, p50=126, p99=290), "device": cell(1, p50=100, p99=200)},
        sixteen={"ringwal": cell(399, p50=100, p99=400, fairness=0.8), "sqlite": cell(100), "device": cell(9)},
    )
    assert verdicts(slower)[1] == verdicts(slower)[2] == "no"


def test_goals_show_the_spread_of_the_rounds_and_judge_the_medians() -> None:
    ours, peer = ({"records_per_s": rate, "turns": [{"records_per_s": turn} for turn in turns]}
                  for rate, turns in ((400, (390, 400, 500)), (100, (130, 90, 100))))  # fmt: skip
    cells = {"ringwal": cell(400) | {"turns": ours["turns"]}, "sqlite": cell(100) | {"turns": peer["turns"]}}
    check = result(sixteen=cells)["goals"][1]["checks"][0]
    assert check["text"] == "throughput / sqlite 4 x (3 to 5) (>= 4)"
    assert check["values"] == {"throughput / sqlite": 4, "bound": 4, "low": 3, "high": 5}
    cells["sqlite"]["turns"].pop()
    assert result(sixteen=cells)["goals"][1]["checks"][0]["text"] == "throughput / sqlite 4 x (>= 4)"


def test_segments_filled_ahead_are_shown_and_not_judged() -> None:
    cells = {"ringwal": cell(60), "device": cell(100), "sqlite": cell(10)}
    without, found = (result(large=cells | ahead)["goals"][4] for ahead in ({}, {"ringwal-ahead": cell(95)}))
    assert without["verdict"] == found["verdict"] == "no"
    assert "ahead" not in without["measured"]
    assert "into segments filled ahead 0.95 x device; into segments filled ahead 9.5 x sqlite" in found["measured"]


def test_segments_used_again_are_shown_beside_those_filled_ahead() -> None:
    cells = {"ringwal": cell(60), "device": cell(100), "sqlite": cell(10), "ringwal-ahead": cell(80)}
    without, found = (result(large=cells | more)["goals"][4] for more in ({}, {"ringwal-recycled": cell(76)}))
    assert without["verdict"] == found["verdict"] == "no"
    assert "used again" not in without["measured"]
    assert "into segments used again 0.95 x those filled ahead" in found["measured"]


def test_who_comes_to_less_than_a_quarter_of_the_others_starves() -> None:
    for fairness, verdict in ((0.25, "yes"), (0.24, "no")):
        found = result(sixteen={"ringwal": cell(100)}, sixty_four={"ringwal": cell(100, fairness=fairness)})
        assert verdicts(found)[7] == verdict


def test_the_maximum_over_rounds_is_not_their_median() -> None:
    middle, spread = stats.medians([{"latency_us": {"p50": value, "max": value}} for value in (1, 9, 2)])
    assert middle == {"latency_us.p50": 2, "latency_us.max": 9}
    assert spread["latency_us.max"] == (1, 9)


def test_a_run_waits_for_a_calm_machine_but_not_for_ever() -> None:
    loads, slept, said = iter([3.0, 2.0, 0.4]), list[float](), list[str]()
    assert environment.calm(0.5, 90, said.append, lambda: next(loads), slept.append) == 3.0
    assert (len(slept), len(said)) == (1, 1)
    assert environment.calm(0.5, 10, said.append, lambda: 3.0, slept.append) == 3.0
    assert sum(slept[1:]) == 10
    assert environment.calm(0.5, 90, said.append, lambda: 0.5, slept.append) == 0.5
    assert len(said) == 2


def test_a_peer_that_does_not_sync_is_nobodys_best_peer() -> None:
    cells = {"ringwal": cell(400), "sqlite": cell(100), "nats": cell(1000) | {"incomparable": True}, "device": cell(9999)}
    assert stats.best_peer({"contenders": cells}) == ("sqlite", 100)


def test_compare_fails_only_past_the_limit_and_only_for_the_worse(tmp_path: Path) -> None:
    before, after = result(one={"ringwal": cell(100, p99=200)}), result(one={"ringwal": cell(120, p99=225)})
    found = list(compare.changes(before, after, "ringwal"))
    assert not compare.failures(found, [compare.Limit.parse("p99:13%"), compare.Limit.parse("throughput:0%")])
    assert [c.metric for c in compare.failures(found, [compare.Limit.parse("p99:12%")])] == ["p99"]
    for name, value in (("a", before), ("b", after)):
        (tmp_path / name).write_text(json.dumps(value))
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert CliRunner().invoke(cli, ["compare", *paths, "--fail", "p99:12%"]).exit_code == 1
    assert CliRunner().invoke(cli, ["compare", *paths, "--fail", "p99:13%"]).exit_code == 0
    assert CliRunner().invoke(cli, ["compare", *paths, "--fail", "p99"]).exit_code == 2


def test_compare_fails_where_what_was_measured_is_no_more(tmp_path: Path) -> None:
    cells = {"ringwal": cell(100), "sqlite": cell(50), "lmdb": {"not_measured": "never was"}}
    before, after = result(one=cells, two=cells), result(one=cells | {"sqlite": {"not_measured": "gone"}})
    assert list(compare.lost(before, after, None)) == [
        ("one", "sqlite", "gone"), ("two", "ringwal", "not part of the run"), ("two", "sqlite", "not part of the run")
    ]  # fmt: skip
    assert [who for _, who, _ in compare.lost(before, after, "ringwal")] == ["ringwal"]
    before["scenarios"].pop("two")
    for name, value in (("a", before), ("b", after)):
        (tmp_path / name).write_text(json.dumps(value))
    command = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    listed = CliRunner().invoke(cli, [*command, "--contender", "all"])
    assert listed.exit_code == 0
    assert "measured before and not after: one sqlite: gone" in listed.output
    assert CliRunner().invoke(cli, [*command, "--contender", "all", "--fail", "p99:50%"]).exit_code == 1
    assert CliRunner().invoke(cli, [*command, "--fail", "p99:50%"]).exit_code == 0


def test_the_page_needs_nothing_else_and_its_drawings_are_well_formed() -> None:
    kinds = ("writers", "size", "outstanding")
    cells = {"ringwal": cell(400), "sqlite": cell(100), "lmdb": {"not_measured": "no <such> package"}}
    sweeps = {f"{kind}_{n}": {"ringwal": cell(n * 10), "sqlite": cell(n)} for kind in kinds for n in (1, 4, 16)}
    found = result(one=cells, empty={"lmdb": {"not_measured": "gone"}}, **sweeps)
    rows = [
        {"shape": shape, "times": "even", "completers": "threads", "way": way, **dict.fromkeys(
            (key for key, _, _ in html_model.COLUMNS), 1.5)}
        for shape in ("1 in flight", "8 in flight") for way in ("before", "after")
    ]  # fmt: skip
    found["extras"] = {
        "before-after": {"title": "b", "rows": rows, "summary": {"1 in flight": 1.0}},
        "memory": {"title": "m", "points": [(0.0, 1e6, 2e6), (1.0, 1e6, 2e6)], "growth_bytes": 0},
        "idle": {"title": "i", "not_measured": "why"},
    }
    page = html.page(found)
    drawings = re.findall(r"<svg.*?</svg>", page)
    assert len(drawings) >= 12
    for drawing in drawings:
        ET.fromstring(drawing)
    assert "&lt;one &amp; only&gt;" in page
    assert "no &lt;such&gt; package" in page
    assert not re.search(r"(src|href)=|https?:|@import|<script", page)


@pytest.mark.parametrize("name", ["writers", "sizes", "outstanding", "one"])
def test_a_picture_stands_alone(tmp_path: Path, name: str) -> None:
    cells = {"ringwal": cell(400), "sqlite": cell(100)}
    swept = {f"{kind}_{n}": cells for kind in ("writers", "size", "outstanding") for n in (128, 1024)}
    found = result(one=cells, **swept)
    (tmp_path / "result.json").write_text(json.dumps(found))
    done = CliRunner().invoke(cli, ["picture", str(tmp_path), name, str(tmp_path / "a.svg")], catch_exceptions=False)
    assert done.exit_code == 0
    drawing = ET.fromstring((tmp_path / "a.svg").read_text())
    texts = "".join(drawing.itertext())
    assert "ringwal" in texts
    assert "sqlite" in texts


def test_a_run_leaves_a_report_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    who = ["--contender", "ringwal", "--contender", "flock-file"]
    arguments = ["--scenario", "one", *who, "--rounds", "2", "--seconds", "0.1", "--calm", "0"]
    places = ["--directory", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, ["run", *arguments, *places], catch_exceptions=False)
    assert done.exit_code == 0
    assert {"result.json", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    cells = found["scenarios"]["one"]["contenders"]
    assert set(cells) == {"ringwal", "flock-file"}
    assert all(len(c["turns"]) == 2 and c["median"]["records_per_s"] > 0 for c in cells.values())
    assert list((tmp_path / "data").iterdir()) == []
    assert "One writer, one outstanding" in done.output
    assert done.output.count("percentile files (*.hgrm) are not written: pip install hdrhistogram") == 1
    assert found["environment"].keys() >= {"load_found", "load_before"}
    again = CliRunner().invoke(cli, ["compare", str(tmp_path / "out"), str(tmp_path / "out"), "--fail", "p99:0%"])
    assert again.exit_code == 0


def test_names_are_unique_and_every_scenario_names_known_contenders() -> None:
    scenarios, known = everything(), run.contenders()
    assert len({s.name for s in scenarios}) == len(scenarios)
    assert all(set(s.contenders) <= set(known) for s in scenarios)
    assert {s.name for s in scenarios} >= {"one", "sixteen", "pipelined", "batches", "large", "streams-100000", "sixty-four"}
    assert {"flock-file", "rocksdb"} <= set(HOT.contenders)
    assert {"flock-file"} <= set(SOME_STREAMS.contenders) & set(ALL_STREAMS.contenders)
    assert threading.active_count() == 1  # nothing of the above started anything
