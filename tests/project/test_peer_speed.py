"""`benchmarks/peers.py`: the order in which it runs, its ratios, what it refuses."""

import json
import sys

import pytest

from support import script

peers = script("benchmarks/peers.py")

HARNESS = """
import json, pathlib, sys
log = pathlib.Path(__file__).parent / "log"
log.open("a").write("theirs\\n")
fast = log.read_text().count("theirs") == 1  # the second process is slower
print(json.dumps({
    "implementation": "theirs", "algorithm": "iql", "commit": "0123456789abcdef", "work": "2 critics",
    "shape": "a scan", "updates_per_second": 120.0 if fast else 80.0,
    "cpu_ms_per_update": 8.0 if fast else 12.0, "gflop_per_update": 0.5,
    "versions": {"flax": "1.2.3"}, "case": sys.argv[1],
}))
"""
OURS = """
import json, pathlib, sys
kind = sys.argv[1]
(pathlib.Path(__file__).parent / "log").open("a").write(kind + "\\n")
print(json.dumps({
    "updates_per_second": {"float32": 150.0, "bfloat16": 300.0}[kind], "gflop_per_update": 0.6,
    "cpu_ms_per_update": {"float32": 5.0, "bfloat16": 4.0}[kind],
    "matmul_gflops": {"float32": 200.0, "bfloat16": 800.0}[kind],
}))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A harness with fixed numbers, and the same for ours."""
    (tmp_path / "harness.py").write_text(HARNESS)
    (tmp_path / "ours.py").write_text(OURS)
    command = lambda case, kind: [sys.executable, str(tmp_path / "ours.py"), kind]
    monkeypatch.setattr(peers, "ours", command)
    return tmp_path


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["peers.py", *map(str, words)])
    peers.main()


def test_turns_and_ratios(folder, monkeypatch):
    prefix = folder / "peers"
    run(monkeypatch, folder, "--results", prefix, "--only", "iql, unifloral")
    order = (folder / "log").read_text().split()
    assert order == ["theirs", "float32", "bfloat16"] * 2
    found = json.loads(prefix.with_suffix(".json").read_text())
    by_kind = {row["precision"]: row for row in found["rows"]}
    # Theirs is 100 /s and 10 ms on average: 150 / 100, 10 / 5, 300 / 100, 10 / 4.
    assert by_kind["float32"]["times_by_clock"] == pytest.approx(1.5)
    assert by_kind["float32"]["times_by_cpu"] == pytest.approx(2.0)
    assert by_kind["bfloat16"]["times_by_clock"] == pytest.approx(3.0)
    assert by_kind["bfloat16"]["times_by_cpu"] == pytest.approx(2.5)
    # Of 200 GFLOP/s: theirs 100 x 0.5, ours 150 x 0.6 and 300 x 0.6.
    assert by_kind["bfloat16"]["share_theirs"] == pytest.approx(0.25)
    assert by_kind["float32"]["share_ours"] == pytest.approx(0.45)
    assert by_kind["bfloat16"]["share_ours"] == pytest.approx(0.9)
    assert [timing["found"]["case"] for timing in by_kind["float32"]["theirs"]] == ["unifloral_iql"] * 2
    text = prefix.with_suffix(".md").read_text()
    assert "| iql, unifloral | float32 | 150.0 (150.0 to 150.0) | 100.0 (80.0 to 120.0) | 1.50 |" in text
    assert "float32 200 to 200; bfloat16 800 to 800" in text and "flax 1.2.3" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "iql"], "--only 'iql': there are 'iql, unifloral'"),
        (["--times", "0"], "--times must be at least 1, not 0"),
    ],
)
def test_wrong_options_end_in_a_line(words, said, folder, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, folder, "--results", folder / "peers", *words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_harness_ends_in_a_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, tmp_path, "--results", tmp_path / "peers")
    assert end.value.code == 2
    assert "no harness.py in" in capsys.readouterr().err


def test_a_harness_that_fails_is_named_with_its_last_line(folder, monkeypatch, capsys):
    (folder / "harness.py").write_text("raise ValueError('no such network')")
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, folder, "--results", folder / "peers", "--only", "rebrac, 3 x 256, unifloral")
    assert end.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "harness.py unifloral_rebrac` failed: ValueError: no such network" in said


def test_cases_are_options_that_bench_takes():
    from leashrl.cli.arguments import pairs
    from leashrl.runs.plan import configure

    for case in peers.CASES.values():
        words = peers.ours(case, "bfloat16")
        assert words[1:4] == ["-m", "leashrl", "bench"] and words[-1] == "--json"
        at = words.index("--set")
        assert at == 5
        config = configure(words[4], "default", None, pairs("--set", words[at + 1 : -1]))
        assert config.precision == "bfloat16" and config.batch_size == 256
