"""`leashrl bench --all`: a table whose rows come from processes of their own, here mostly stand-ins."""

import json
import os
import signal

import pytest

from leashrl import benches
from leashrl.algos import REGISTRY
from leashrl.nn import PRECISIONS
from support.processes import as_here

RATES = {"float32": 200.0, "bfloat16": 800.0}


def speed(algorithm: str, options: dict, seeds: int) -> dict:
    """What a process gives: as many updates as the name has letters."""
    precision = options["precision"].replace("auto", "float32")
    return {
        "algorithm": algorithm,
        "preset": "default",
        "config": {"hidden": [256, 256]},
        "seeds": seeds,
        "obs_dim": 11,
        "action_dim": 3,
        "updates_per_second": float(len(algorithm)),
        "member_updates_per_second": float(seeds * len(algorithm)),
        "slowest_and_fastest": [1.5, 1234.5],
        "cpu_ms_per_update": 12.5,
        "gflop_per_update": 1.5,
        "precision": precision,
        "matmul_gflops": RATES[precision],
        "share_of_matmul_rate": 0.25,
        "peak_rss_mb": 300.0,
        "peak_device_mb": 70.0 if precision == "bfloat16" else None,
        "compile_s": 4.25,
        "device": "cpu",
        "jax": "0",
    }


@pytest.fixture
def asked(monkeypatch) -> list:
    """Stand-ins for the processes: what they are asked; `iql` crashes."""
    calls = []

    def apart(call, timeout, **arguments):
        calls.append((call, arguments))
        if call == "machine":
            rates = {name: RATES[name] for name in arguments["precisions"]}
            return {"device": "cpu", "platform": "cpu", "jax": "0", "matmul_gflops": rates}
        if arguments["algorithm"] == "iql":
            raise benches.Crashed("ended by SIGKILL")
        return speed(arguments["algorithm"], arguments["options"], arguments["seeds"])

    monkeypatch.setattr(benches, "_apart", apart)
    return calls


# --- The table ---------------------------------------------------------------


def test_all_algorithms_in_both_precisions_and_a_crash_is_a_row(asked, document):
    found = document("bench", "--all", "--seconds", "2", "--seeds", "3", "--set", "batch_size=64")
    pairs = [(name, precision) for name in REGISTRY for precision in PRECISIONS]
    assert [(row["algorithm"], row["precision"]) for row in found["rows"]] == pairs and found["left"] == []
    assert found["machine"]["matmul_gflops"] == RATES
    for row in found["rows"]:
        if row["algorithm"] == "iql":
            assert row["failure"] == "ended by SIGKILL" and "updates_per_second" not in row
        else:
            assert row["failure"] is None and row["member_updates_per_second"] == 3 * len(row["algorithm"])
    (first, *rest) = asked
    assert first == ("machine", {"precisions": list(PRECISIONS)})  # once, at the start
    for (call, arguments), (name, precision) in zip(rest, pairs, strict=True):
        assert call == "bench" and arguments["algorithm"] == name and arguments["matmul_gflops"] == RATES
        assert arguments["options"] == {"batch_size": "64", "precision": precision}
        assert (arguments["seconds"], arguments["seeds"]) == (2.0, 3)


def test_rows_are_aligned_and_the_memory_is_the_devices_where_it_counts_it(asked, cli):
    lines = cli("bench", "--all")[0].splitlines()
    assert "200 GFLOP/s in float32, 800 GFLOP/s in bfloat16" in lines[0]
    head, rows = lines[2], lines[3:]
    assert len(rows) == 2 * len(REGISTRY)
    (misa,) = [row for row in rows if row.split()[:2] == ["misa", "bfloat16"]]
    assert misa.split()[2:] == ["4", "1.5", "to", "1234", "12.5", "1.5", "25%", "4.2", "70"]
    assert len(misa) == len(head) and misa.index("12.5") + 4 == head.index("CPU ms") + 6
    assert next(row for row in rows if row.startswith("iql")).endswith("failed: ended by SIGKILL")
    (plain,) = [row for row in rows if row.split()[:2] == ["misa", "float32"]]
    assert plain.endswith(" 300")


@pytest.mark.parametrize(("word", "named"), [("bfloat16", "bfloat16"), ("auto", "float32")])
def test_one_precision_may_be_named(asked, document, word, named):
    found = document("bench", "--all", "--set", f"precision={word}")
    timed = [row["precision"] for row in found["rows"] if row["failure"] is None]
    assert timed == [named] * (len(REGISTRY) - 1)
    assert asked[0][1]["precisions"] == (list(PRECISIONS) if word == "auto" else [word])


def test_nothing_timed_is_an_error(asked, monkeypatch, cli):
    monkeypatch.setitem(benches.bench_all.__kwdefaults__, "algorithms", ("iql",))
    out, err = cli("bench", "--all", status=2)
    assert out.count("failed: ended by SIGKILL") == 2
    assert err == "leashrl: error: no algorithm could be timed: ended by SIGKILL\n"


# --- Ctrl-C ------------------------------------------------------------------


@pytest.mark.parametrize(("at", "done"), [(1, 0), (4, 2)], ids=["products", "the third row"])
def test_ctrl_c_keeps_what_is_done(asked, monkeypatch, cli, at, done):
    apart = benches._apart

    def stopped(*args, **arguments):
        if len(asked) == at - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return apart(*args, **arguments)

    monkeypatch.setattr(benches, "_apart", stopped)
    out, err = cli("bench", "--all", "--json", status=130)
    found, total = json.loads(out), 2 * len(REGISTRY)
    assert [row["algorithm"] for row in found["rows"]] == ["awac", "awac"][:done]
    assert len(found["left"]) == total - done and (found["machine"] is None) == (done == 0)
    assert err.splitlines()[-1] == f"leashrl: interrupted: {done} of {total} rows are done"


# --- What is refused ---------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "needs an algorithm"),
        (["misa", "--all"], "'misa' or --all, not both"),
        (["--all", "--seconds", "0"], "--seconds must be more than 0"),
        (["--all", "--seconds", "nan"], "--seconds must be more than 0"),
        (["--all", "--seeds", "0"], "--seeds must be at least 1"),
        (["--all", "--set", "k=5"], "no option 'k'"),
        (["--all", "--set", "precision=half"], "cannot be 'half'"),
        (["--all", "--preset", "authors"], "no preset 'authors'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_timed(asked, refused, argv, said):
    assert said in refused("bench", *argv)
    assert asked == []


# --- Real processes ----------------------------------------------------------


def test_a_process_that_dies_is_told_by_its_signal_and_one_that_fails_by_its_last_line(tmp_path, monkeypatch):
    program = tmp_path / "python"
    monkeypatch.setattr(benches.sys, "executable", str(program))
    on = benches.Machine(device="cpu", platform="cpu", jax="0", matmul_gflops=RATES)
    failures = {}
    for name, text in {"kill": "kill -9 $$", "fail": "echo a >&2; echo the reason >&2; exit 1"}.items():
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        row = benches.bench_apart("bc", "float32", on=on)
        assert row.speed is None and row.precision == "float32"
        failures[name] = row.failure
    assert failures == {"kill": "ended by SIGKILL", "fail": "the reason"}
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(TimeoutError):
        benches.bench_apart("bc", "float32", on=on, timeout=0.2)


@pytest.mark.slow
def test_a_row_of_a_real_process(monkeypatch):
    monkeypatch.setattr(os, "environ", as_here())
    on = benches.Machine(device="cpu", platform="cpu", jax="0", matmul_gflops=RATES)
    tiny = {"hidden": "32,32", "batch_size": "8"}
    row = benches.bench_apart("bc", "bfloat16", on=on, options=tiny, seconds=0.05, seeds=2)
    assert row.failure is None and row.speed is not None
    assert (row.precision, row.speed.precision, row.speed.matmul_gflops) == ("bfloat16", "bfloat16", 800.0)
    # 2 seeds x 8 rows x 2 (multiply and add): 11-32-32 and two heads of 3; backward twice that, but for the
    # first layer's, whose input has no gradient
    layers = [11 * 32, 32 * 32, 32 * 6]
    assert row.speed.gflop_per_update == pytest.approx(2 * 8 * 2 * (3 * sum(layers) - layers[0]) / 1e9)
    share = row.speed.gflop_per_update * row.speed.updates_per_second / 800
    assert row.speed.share_of_matmul_rate == pytest.approx(share)
    failed = benches.bench_apart("bc", "float32", on=on, preset="best").failure
    assert failed is not None and failed.startswith("bc has no preset 'best'")
