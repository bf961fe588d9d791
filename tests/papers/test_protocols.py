"""What the papers' tables and figures run at scale `full`, resolved, against the texts and the public codes.

Every expected value here was read from a text's appendix or a public code by hand. Nothing is trained.
"""

import re

import pytest

from leashrl.algos import REGISTRY
from leashrl.cli import main
from leashrl.errors import BadInput
from leashrl.nn import hidden
from leashrl.papers import experiments, protocol
from leashrl.papers.printed import PAPERS, load
from leashrl.papers.protocols import SCALES, Options, Trial, listing, resolve, setup_of
from leashrl.runs import experiment
from leashrl.runs.results import Result
from leashrl.tasks import TASKS
from support import ROOT

ROWS = {paper: resolve(paper) for paper in PAPERS}
M = 1_000_000


def rows(paper: str, algorithm: str) -> list:
    return [row for row in ROWS[paper] if row.setup.algorithm == algorithm]


def differences(config: dict, wanted: dict) -> dict:
    return {name: (config[name], value) for name, value in wanted.items() if config[name] != value}


# --- Updates, seeds, evaluations -----------------------------------------------

# Stages; seeds; updates between evaluations; episodes of each; of the last. By domain where that differs.
MISA_5 = {"": (5, 5_000, 10, 10), "antmaze": (5, 100_000, 100, 100)}
BRAC_PLUS = {"": (4, 2_000, 20, 100), "adroit": (4, 2_000, 20, 1_000)}
D4RL = {"": (4, 5_000, 20, 100), "adroit": (4, 5_000, 20, 1_000)}
FISHER = {"": (5, 10_000, 10, 10)}
MIRACLE = {"": (10, 100_000, 10, 10)}
FQL = {"": (8, 100_000, 50, 50)}
BRAC = {"behaviour": M, "train": M}
PROTOCOLS = {
    "misa": {
        "bc": ({"train": M}, MISA_5),
        "bc-10": ({"train": 100_000}, {"": (5, 10_000, 100, 100)}),
        "dt": ({"train": 100_000}, {"": (5, 10_000, 100, 100)}),
        "awac": ({"train": M}, MISA_5),
        "onestep": ({"behaviour": 500_000, "value": 2 * M, "train": 100_000}, {"": (5, 10_000, 100, 100)}),
        "td3-bc": ({"train": M}, MISA_5),
        "cql": ({"train": M}, MISA_5),
        "iql": ({"train": M}, MISA_5),
        "misa": ({"train": 1_200_000}, {"": (5, 10_000, 10, 10), "antmaze": (5, 10_000, 100, 100)}),
    },
    "brac-plus": {
        "bc": ({"train": 500_000}, BRAC_PLUS),
        "bear": ({"train": M}, BRAC_PLUS),
        "brac-p": (BRAC, D4RL),
        "brac-v": (BRAC, D4RL),
        "cql": ({"train": M}, BRAC_PLUS),
        "mopo": ({"model": 100_000, "train": M}, BRAC_PLUS),
        "mbop": ({"train": M}, BRAC_PLUS),
        # The behaviour's 400,000 are the text's; it has no number for what starts policy and critics.
        "brac-plus": ({"behaviour": 400_000, "clone": 400_000, "value": 400_000, "train": M}, BRAC_PLUS),
    },
    "fisher-brc": {
        "bc": ({"train": 500_000}, FISHER),
        "brac-p": (BRAC, {"": (5, 5_000, 20, 20)}),
        "brac-v": (BRAC, {"": (5, 5_000, 20, 20)}),
        "mbop": ({"train": M}, FISHER),
        "cql": ({"train": M}, FISHER),
        "fisher-brc": ({"behaviour": M, "train": M}, FISHER),
    },
    "miracle": {
        "miracle": ({"train": M}, MIRACLE),
        "ddpg": ({"train": M}, MIRACLE),
        "ppo": ({"train": M}, MIRACLE),
    },
    "fql": {name: ({"train": M}, FQL) for name in ("bc", "iql", "rebrac", "ifql", "fql")},
}


@pytest.mark.parametrize("paper", PAPERS)
def test_every_column_and_task_has_its_published_protocol(paper):
    assert {row.setup.algorithm for row in ROWS[paper]} == set(PROTOCOLS[paper])
    for row in ROWS[paper]:
        stages, lengths = PROTOCOLS[paper][row.setup.algorithm]
        if row.trial.run.endswith("representation=false"):  # a plain critic has no density to fit
            stages = {"train": M}
        setup = row.setup
        found = setup.seeds, setup.eval_every, setup.episodes, setup.final_episodes or setup.episodes
        where = TASKS[row.trial.task].domain
        assert dict(row.stages) == stages, row
        assert found == lengths.get(where, lengths[""]), row
        assert setup.sources


def test_every_row_of_every_table_and_every_curve_is_there():
    found = {(p, r.item, r.column, r.trial.task) for p in PAPERS for r in ROWS[p]}
    tables = {("misa", "1"): 9 * 10, ("misa", "2"): 26 * 9, ("misa", "3"): 3 * 3}
    tables |= {("brac-plus", "1"): 12 * 7, ("brac-plus", "2"): 4 * 7, ("fisher-brc", "1"): 15 * 7}
    tables |= {("fql", "2"): 7 * 5 * 5, ("fql", "3"): 14 * 5}
    for (paper, number), cells in tables.items():
        assert sum((p, i) == (paper, f"table {number}") for p, i, _, _ in found) == cells
    figures = {("misa", "1"): 2, ("brac-plus", "1"): 2, ("brac-plus", "2"): 12, ("brac-plus", "3"): 6}
    figures |= {("brac-plus", "6"): 2, ("brac-plus", "7"): 2, ("brac-plus", "8"): 5}
    figures |= {("fisher-brc", "2"): 18, ("fisher-brc", "3"): 60, ("fisher-brc", "4"): 45}
    # Nine environments: the text's eight, of which one has two readings.
    figures |= {("fisher-brc", "5"): 15, **{("miracle", n): 9 * 4 for n in "2345"}}
    for (paper, number), curves in figures.items():
        assert sum((p, i) == (paper, f"figure {number}") for p, i, _, _ in found) == curves, (paper, number)
    assert len(found) == sum(tables.values()) + sum(figures.values())


# --- MISA: the NeurIPS text's section 5.1 and appendix ----------------------------

MISA_ALL = {
    **{"policy_rate": 1e-4, "critic_rate": 1e-4, "schedule": "cosine"},
    **{"policy_activation": "elu", "critic_activation": "elu"},
    **{"leapfrog": 2, "chain_step": 1.0, "chain_samples": 50, "normaliser": "k", "single_gamma_2": True},
    **{"batch_size": 256, "gamma": 0.99, "polyak": 0.005, "preprocess.obs": "none"},
}
MISA_DOMAINS = {
    "gym": {"hidden": [256, 256], "lagrange": False, "preprocess.reward": "none"},
    "adroit": {"hidden": [256, 256], "lagrange": True, "tau": 3.0, "preprocess.reward": "unit"},
    "kitchen": {"hidden": [256, 256], "lagrange": True, "tau": 3.0, "preprocess.reward": "unit"},
    "antmaze": {"hidden": [256] * 3, "lagrange": True, "tau": 10.0, "preprocess.reward": "antmaze"},
}
MISA_TABLE_1 = {
    "k=5": {"k": 5},
    "k=20": {"k": 20},
    "BI=1": {"burn_in": 1},
    "no BA": {"barber_agakov": False},
    "BA": {"bound": "ba"},
    "MISA-f": {"bound": "f"},
    "MISA-DV": {"bound": "dv"},
    "MISA-biased": {"estimator": "none"},
    "MISA-T": {"energy": "t"},
    "MISA": {},
}
MISA_OWN = {"k": 50, "burn_in": 5, "barber_agakov": True, "bound": "misa", "energy": "q"}


def test_misa_is_the_texts_in_every_row():
    found = rows("misa", "misa")
    assert len(found) == 9 * 10 + 26 + 3 + 2
    for row in found:
        wanted = MISA_ALL | MISA_DOMAINS[TASKS[row.trial.task].domain] | MISA_OWN | MISA_TABLE_1[row.column]
        assert differences(row.config, wanted) == {}, (row.item, row.column, row.trial.task)
        assert row.column == "MISA-biased" or row.config["estimator"] == "hmc"  # a sampler that samples
    lagrange = [row for row in found if row.item == "table 2" and row.config["lagrange"]]
    assert len(lagrange) == 17


# --- BRAC+: tables 3 to 6 and appendix F -------------------------------------------

TABLE_5 = {
    "halfcheetah-random": (9.0, -3.0),
    "walker2d-random": (0.1, 6.0),
    "hopper-random": (3.0, -3.0),
    "halfcheetah-medium": (4.0, -12.0),
    "walker2d-medium": (2.1, -9.0),
    "hopper-medium": (2.4, -6.0),
    "halfcheetah-medium-expert": (11.5, -24.0),
    "walker2d-medium-expert": (5.0, -12.0),
    "hopper-medium-expert": (2.6, -6.0),
    "halfcheetah-medium-replay": (6.0, -12.0),
    "walker2d-medium-replay": (4.0, -6.0),
    "hopper-medium-replay": (3.0, -3.0),
}
TABLE_6 = {
    "pen-human": (0.06, -200.0),
    "hammer-human": (0.1, -60.0),
    "door-human": (0.1, -60.0),
    "relocate-human": (0.1, -60.0),
}
TABLE_3 = {
    "hopper-medium-replay": (10.0, 0.2),
    "walker2d-medium-expert": (20.0, 0.2),
    "halfcheetah-medium": (10.0, 0.3),
}
BRAC_PLUS_ALL = {
    **{"batch_size": 100, "gamma": 0.99, "polyak": 1e-3, "critic_rate": 3e-4, "beta": 10.0},
    **{"beta_rate": 1e-3, "epoch": 2_000, "latents": 5, "members": 3, "preprocess.reward": "zero-one"},
    **{"hidden": [512, 512], "critic_hidden": [256, 256], "behaviour_hidden": [512, 512]},
    **{"alpha_hidden": [256, 256], "measured": False, "keep_behaviour": False, "backup": "mean"},
}
ABLATIONS = {
    "MMD": {"divergence": "mmd", "state_wise": False, "slope_weight": "none"},
    "global": {"divergence": "kl", "state_wise": False, "slope_weight": "none"},
    "state-wise": {"divergence": "kl", "state_wise": True, "slope_weight": "none"},
    "no gradient penalty": {"state_wise": True, "slope_weight": "none"},
    "gradient penalty": {"state_wise": True, "slope_weight": "hard"},
    "BRAC+": {"state_wise": True, "slope_weight": "hard"},
}


def test_brac_plus_is_the_texts_in_every_row():
    found = rows("brac-plus", "brac-plus")
    assert len(found) == 12 + 4 + 2 + 12 + 6 + 2 + 2 + 5
    for row in found:
        adroit, place = TASKS[row.trial.task].domain == "adroit", row.trial.task.removesuffix("-v0")
        threshold, entropy = (TABLE_5 | TABLE_6)[place]
        rates = (5e-8, 1e-7) if adroit else (5e-6, 1e-5)
        wanted = BRAC_PLUS_ALL | {"policy_rate": rates[0], "alpha_rate": rates[1]}
        wanted |= {"divergence": "mmd" if adroit else "kl", "threshold": threshold}
        wanted |= {} if row.column == "MMD" else {"entropy_cap": entropy}
        wanted |= ABLATIONS.get(row.column, {})
        if row.column == "MMD":
            wanted |= dict(zip(("sigma", "threshold"), TABLE_3[place], strict=True))
        if row.item == "figure 8":
            wanted |= {"entropy_cap": float(row.column.removeprefix("H0 = "))}
        assert differences(row.config, wanted) == {}, (row.item, row.column, row.trial.task)
    heights = [row.config["entropy_cap"] for row in found if row.item == "figure 8"]
    assert heights[0] == -24 and heights == sorted(heights)  # table 5's own among them


# --- Fisher-BRC: section 5.1 and appendix ------------------------------------------


def test_fisher_brc_is_the_texts_in_every_row():
    wanted = {"components": 5, "hidden": [256] * 3, "behaviour_hidden": [256] * 3, "bonus": 5.0}
    wanted |= {"policy_rate": 3e-4, "critic_rate": 3e-4, "behaviour_rate": 1e-3, "polyak": 0.005}
    wanted |= {"batch_size": 256, "gamma": 0.99, "preprocess.obs": "none", "preprocess.reward": "none"}
    found = rows("fisher-brc", "fisher-brc")
    assert len(found) == 15 + 18 + 15 + 45 + 15
    for row in found:
        number = re.search(r"lambda=([\d.]+)", row.column)
        own = {"penalty": float(number[1]) if number else 0.1}
        own |= {"representation": row.column != "without the representation"}
        assert differences(row.config, wanted | own) == {}, (row.item, row.column)


# --- MIRACLE: appendix F -----------------------------------------------------------


def test_miracle_is_the_texts_in_every_row():
    wanted = {"every": 1, "policy_rate": 3e-4, "critic_rate": 3e-4, "marginal_rate": 3e-4, "batch_size": 256}
    wanted |= {"hidden": [256, 256], "gamma": 0.99, "polyak": 0.01, "beta": 10.0, "latents": 20, "buffer": M}
    small = {"pendulum": 1_000, "inverted-pendulum": 1_000}
    small |= dict.fromkeys(("inverted-double-pendulum", "swimmer", "reacher"), 10_000)
    found = rows("miracle", "miracle")
    for row in found:
        marginal = {
            "MIRACLE": "gaussian" if row.item in ("figure 2", "figure 3") else "vae",
            "SAC": "uniform",
        }
        own = {"action_buffer": small.get(row.trial.task, 50_000), "marginal": marginal[row.column]}
        assert differences(row.config, wanted | own) == {}, (row.item, row.column, row.trial.task)
    for row in [*rows("miracle", "ddpg"), *rows("miracle", "ppo")]:
        assert (row.config["hidden"], row.config["learning_rate"]) == ([256, 256], 3e-4)


# --- Baselines: their public codes -------------------------------------------------

IQL = {
    "gym": {"expectile": 0.7, "temperature": 3.0, "dropout_percent": 0, "preprocess.reward": "return"},
    "antmaze": {"expectile": 0.9, "temperature": 10.0, "preprocess.reward": "minus-one"},
    "kitchen": {"expectile": 0.7, "temperature": 0.5, "dropout_percent": 10, "preprocess.reward": "none"},
    "adroit": {"expectile": 0.7, "temperature": 0.5, "dropout_percent": 10, "preprocess.reward": "none"},
}
MOPO = {  # horizon and penalty of its configurations
    "halfcheetah-random": (5, 0.5),
    "halfcheetah-medium": (1, 1.0),
    "halfcheetah-medium-replay": (5, 1.0),
    "halfcheetah-medium-expert": (5, 5.0),
    "hopper-random": (5, 1.0),
    "hopper-medium": (5, 5.0),
    "hopper-medium-replay": (5, 1.0),
    "hopper-medium-expert": (5, 1.0),
    "walker2d-random": (1, 1.0),
    "walker2d-medium": (5, 5.0),
    "walker2d-medium-replay": (1, 1.0),
    "walker2d-medium-expert": (1, 2.0),
}
BASELINES = {
    "bc": {"batch_size": 256, "deterministic": False, "preprocess.obs": "none"},
    "bc-10": {"preprocess.best_percent": 10},
    "dt": {"batch_size": 64, "context": 20, "width": 128, "layers": 3, "heads": 1, "policy_rate": 1e-4},
    "awac": {"hidden": [256] * 3, "policy_rate": 3e-4, "critic_rate": 3e-4, "preprocess.obs": "standardise"},
    "onestep": {"batch_size": 512, "hidden": [1024, 1024], "policy_rate": 1e-4, "critic_rate": 1e-4},
    "td3-bc": {"alpha": 2.5, "policy_every": 2, "hidden": [256, 256], "preprocess.obs": "standardise"},
    "cql": {"k": 10, "hidden": [256] * 3, "weight": 5.0, "policy_rate": 1e-4, "critic_rate": 3e-4},
    "iql": {"hidden": [256, 256], "policy_rate": 3e-4, "schedule": "cosine", "preprocess.obs": "none"},
    "bear": {"samples": 4, "candidates": 10, "threshold": 0.05, "policy_rate": 1e-4, "critic_rate": 3e-4},
    "brac-p": {"alpha": 1.0, "policy_rate": 3e-5, "critic_rate": 1e-3, "value_penalty": False, "samples": 4},
    "brac-v": {"alpha": 1.0, "policy_rate": 3e-5, "critic_rate": 1e-3, "value_penalty": True, "samples": 4},
    "mopo": {"members": 7, "elites": 5, "rollouts": 50_000, "real_percent": 5, "target_entropy": -3.0},
    "mbop": {"members": 3, "hidden": [500, 500]},
}


def test_baselines_are_those_of_their_codes():
    for paper in set(PAPERS) - {"fql"}:  # which has its own re-implementations, below
        for row in ROWS[paper]:
            name, task = row.setup.algorithm, TASKS[row.trial.task]
            wanted = dict(BASELINES.get(name, {}))
            if name == "iql":
                wanted |= IQL[task.domain]
            if name == "mopo":
                place = row.trial.task.removesuffix("-v0")
                wanted |= dict(zip(("horizon", "penalty"), MOPO[place], strict=True))
            if name == "bc" and paper != "misa":  # D4RL's own, as BRAC clones
                wanted |= {"hidden": [200, 200], "policy_rate": 5e-4}
            if name == "cql":
                wanted |= {"form": "rho" if row.column == "CQL(rho)" else "h"}
            if name == "cql" and task.domain == "antmaze":
                wanted |= {"lagrange": "weighted", "tau": 5.0, "preprocess.reward": "antmaze"}
            assert differences(row.config, wanted) == {}, (paper, row.item, row.column, row.trial.task)


# FQL's tables 5 and 6, and its code where they are silent. By the start of a task's name, the longest first.
OGBENCH_ALL = {
    **{"batch_size": 256, "hidden": [512] * 4, "activation": "gelu", "initial": "glorot", "gamma": 0.99},
    **{"policy_rate": 3e-4, "preprocess.obs": "none", "preprocess.reward": "none"},
}
VALUES = {"polyak": 0.005, "critic_rate": 3e-4, "ensemble": 2, "learnt_norm": True}
OGBENCH = {
    "bc": {"deterministic": True, "squash": False},
    "iql": VALUES
    | {"expectile": 0.9, "policy": "unit", "joint": True, "schedule": "constant", "value_rate": 3e-4},
    "rebrac": VALUES | {"policy_every": 2, "noise": 0.2, "noise_clip": 0.5, "penalty": "sum", "joint": True},
    "ifql": VALUES | {"expectile": 0.9, "samples": 32, "flow_steps": 10, "value_rate": 3e-4},
    "fql": VALUES | {"flow_steps": 10, "normalise": False},
}
OGBENCH_WORLDS = {
    ("iql", "antmaze"): {"temperature": 10.0},
    ("iql", "cube-single"): {"temperature": 1.0, "hidden": [256] * 4},
    ("iql", "cube-double"): {"temperature": 0.3, "hidden": [256] * 4},
    ("iql", "scene"): {"temperature": 10.0, "hidden": [256] * 4},
    ("iql", "puzzle-3x3"): {"temperature": 10.0, "hidden": [256] * 4},
    ("iql", "puzzle-4x4"): {"temperature": 3.0, "hidden": [256] * 4},
    ("rebrac", "antmaze"): {"policy_penalty": 0.003, "critic_penalty": 0.01},
    ("rebrac", "cube-single"): {"policy_penalty": 1.0, "critic_penalty": 0.0},
    ("rebrac", "cube-double"): {"policy_penalty": 0.1, "critic_penalty": 0.0},
    ("rebrac", "scene"): {"policy_penalty": 0.1, "critic_penalty": 0.01},
    ("rebrac", "puzzle"): {"policy_penalty": 0.3, "critic_penalty": 0.01},
    ("fql", "antmaze"): {"alpha": 10.0, "target": "min"},
    ("fql", "cube"): {"alpha": 300.0, "target": "mean"},
    ("fql", "scene"): {"alpha": 300.0, "target": "mean"},
    ("fql", "puzzle"): {"alpha": 1000.0, "target": "mean"},
}


@pytest.mark.parametrize("row", ROWS["fql"], ids=lambda row: f"{row.item} {row.column} {row.trial.task}")
def test_ogbenchs_columns_are_fqls_values(row):
    name, task = row.setup.algorithm, row.trial.task
    wanted = OGBENCH_ALL | OGBENCH[name]
    for (of, start), values in OGBENCH_WORLDS.items():
        wanted |= values if of == name and task.startswith(start) else {}
    if task.startswith("antmaze-giant") and name != "bc":  # which has no use for it
        wanted |= {"gamma": 0.995}
    assert differences(row.config, wanted) == {}


# --- Columns differ in what they name ------------------------------------------------

CHANGES = {  # of each item with several runs of one algorithm: the options that each column names
    ("misa", "table", "1"): MISA_TABLE_1,
    ("misa", "figure", "1"): {"BA": {"bound"}, "MISA": set()},
    ("brac-plus", "table", "2"): {"CQL(H)": set(), "CQL(rho)": {"form"}},
    ("brac-plus", "figure", "1"): {"no gradient penalty": {"slope_weight"}, "gradient penalty": set()},
    ("brac-plus", "figure", "2"): {
        # MMD's own settings: table 3 has its kernel, threshold and number of samples.
        "MMD": {"divergence", "sigma", "threshold", "samples", "entropy_cap", "state_wise", "slope_weight"},
        "global": {"state_wise", "slope_weight"},
        "state-wise": {"slope_weight"},
        "gradient penalty": set(),
    },
    ("brac-plus", "figure", "3"): {"global": {"state_wise"}, "state-wise": set()},
    ("brac-plus", "figure", "6"): {"no gradient penalty": {"slope_weight"}, "gradient penalty": set()},
    ("brac-plus", "figure", "8"): {f"H0 = {h}": {"entropy_cap", "measured"} for h in (-24, -4, 0, 3, 6)},
    ("fisher-brc", "table", "1"): {"CQL (GitHub)": set(), "CQL (Ours)": set()},
    ("fisher-brc", "figure", "2"): {f"lambda={x}": {"penalty"} for x in ("0.0", "0.1", "1.0")},
    ("fisher-brc", "figure", "4"): {f"lambda={x}": {"penalty"} for x in ("0.0", "0.1", "1.0")},
    **{("miracle", "figure", n): {"MIRACLE": {"marginal"}, "SAC": set()} for n in "2345"},
}


@pytest.mark.parametrize("scale", ["full", *SCALES])
def test_columns_of_one_algorithm_differ_in_what_they_name_alone(scale):
    seen = set()
    for paper in PAPERS:
        found = resolve(paper, options=Options(scale=scale))
        for key in load(paper):
            mine = [row for row in found if row.item == " ".join(key)]
            for row in mine:
                rivals = [r for r in mine if r.setup.algorithm == row.setup.algorithm]
                peers = [r for r in rivals if r.trial.task == row.trial.task]
                if len({r.column for r in peers}) < 2:
                    continue
                named = CHANGES[paper, *key]
                seen.add((paper, *key))
                changed = {name for name, value in row.config.items() if peers[-1].config[name] != value}
                assert changed <= {*named[row.column], *named[peers[-1].column]}, (scale, paper, key)
                assert row.stages == peers[-1].stages and row.setup.seeds == peers[-1].setup.seeds
    assert seen == set(CHANGES)


def test_misas_table_1_has_the_texts_relation_below_full_scale():
    found = {row.column: row.config for row in resolve("misa", "table", "1", Options(scale="cpu"))}
    assert [found[column]["k"] for column in ("k=5", "k=20", "MISA")] == [5, 20, 50]
    assert (found["BI=1"]["burn_in"], found["MISA"]["burn_in"]) == (1, 5)
    assert found["BI=1"]["estimator"] == found["MISA"]["estimator"] == "hmc"
    for column, change in MISA_TABLE_1.items():
        assert differences(found[column], change) == {}, column


def test_brac_pluss_figures_from_runs_move_at_cpu():
    """A step of Adam is at most the rate: the text's 5e-6 would move no weight by 0.03 in 5,000 updates."""
    moved = {}
    for row in resolve("brac-plus", options=Options(scale="cpu")):
        if row.item in {f"figure {n}" for n in (2, 3, 6, 7, 8)}:
            most = row.config["policy_rate"] * dict(row.stages)["train"]
            moved.setdefault(row.item, []).append(most)
    assert set(moved) == {f"figure {n}" for n in (2, 3, 6, 7, 8)}
    assert all(most >= 1.0 for mine in moved.values() for most in mine)


# --- The runs themselves, and what is shown of them ------------------------------------


@pytest.mark.parametrize(
    ("paper", "run", "task", "wanted"),
    [
        ("misa", "onestep:authors", "hopper-medium-v2", {"seeds": 5, "eval_every": 10_000, "episodes": 100}),
        ("misa", "misa:paper", "hopper-medium-v2", {"seeds": 5, "eval_every": 10_000, "episodes": 10}),
        ("brac-plus", "brac-plus:paper", "hopper-medium-v0", {"episodes": 20, "final_episodes": 100}),
    ],
)
def test_runs_are_trained_by_what_is_shown(paper, run, task, wanted, monkeypatch, tmp_path):
    calls = []

    def train(algorithm, data, **given):
        calls.append({"algorithm": algorithm} | given)
        return Result(
            folder=tmp_path, algorithm=algorithm, preset="", task=task, data={}, steps=0, episodes=0,
            evaluated=True, members=(), score=None, versions={},
        )  # fmt: skip

    monkeypatch.setattr(experiment, "train", train)
    monkeypatch.setattr(
        experiments, "source_of", lambda *a: experiments.Source(None, "hopper-medium", "ours", "hash")
    )
    options = Options(scale="full", runs=str(tmp_path))
    experiments.finish([Trial(task, run, paper=paper)], options, lambda line: None)
    (call,) = calls
    shown = next(r for r in ROWS[paper] if (r.trial.task, r.trial.run) == (task, run))
    assert call["options"]["steps"] == dict(shown.stages)["train"]
    assert {name: call[name] for name in wanted} == wanted
    assert call["out"] == tmp_path / "full" / paper / f"hopper-medium--{run.replace(':', '-')}"
    setup = setup_of(Trial(task, run, paper=paper), options)
    assert setup.config(task, task) == setup.config(task, "hopper_medium.hdf5")  # whatever the file is called


def test_d4rls_own_file_names_find_the_texts_values():
    """`pen-v0_demos_clipped` does not say that its data are human."""
    setup = setup_of(Trial("pen-human-v0", "brac-plus:paper", paper="brac-plus"), Options(scale="full"))
    config = setup.config("pen-human-v0", "pen-v0_demos_clipped")
    assert (config.threshold, config.entropy_cap) == (0.06, -200.0)


def test_what_is_asked_for_replaces_the_published():
    options = Options(scale="full", steps=2_000, seeds=3)
    setup = setup_of(Trial("hopper-medium-v2", "misa:paper", paper="misa"), options)
    assert (setup.steps, setup.seeds, setup.eval_every) == (2_000, 3, 2_000)


def test_the_committed_listing_is_what_the_data_give():
    file = ROOT / "benchmarks" / "results" / "protocols.md"
    assert file.read_text() == listing() + "\n", "make it again: leashrl paper --protocol > " + str(file)


@pytest.mark.parametrize("fast", [True, False])
def test_what_is_shown_does_not_depend_on_the_machine(fast, monkeypatch):
    monkeypatch.setattr(hidden, "fast_bfloat16", lambda: fast)
    for name, entry in REGISTRY.items():
        monkeypatch.setitem(REGISTRY, name, entry._replace(bfloat16=True))
    found = resolve("misa", "table", "2")
    assert {row.config["precision"] for row in found} == {"auto"}
    assert found == [row for row in ROWS["misa"] if row.item == "table 2"]


def test_the_command_shows_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["paper", "misa", "--table", "2", "--protocol"]) == 0
    out = capsys.readouterr().out
    assert "| misa:" not in out and "behaviour 500,000 + value 2,000,000 + train 100,000" in out
    assert out == protocol("misa", "table", "2").markdown + "\n"
    assert main(["paper", "--protocol"]) == 0
    assert capsys.readouterr().out == listing() + "\n"
    assert list(tmp_path.iterdir()) == []
    found = protocol("misa", "table", "2", {"seeds": 7}, scale="cpu").rows
    assert {row.setup.seeds for row in found} == {7} and {row.setup.eval_every for row in found} == {500}
    assert found[0].config["steps"] == 5_000


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["misa", "--table", "7", "--protocol"], "no table '7'"),
        (["brac-plus", "--figure", "4", "--protocol"], "has no runs"),
        (["--protocol", "--table", "2"], "of which paper?"),
        (["misa", "--protocol", "--set", "sedes=2"], "did you mean 'seeds'?"),
    ],
)
def test_a_mistake_is_one_line(argv, words, refused):
    assert words in refused("paper", *argv)


def test_an_unknown_paper_has_no_protocol():
    with pytest.raises(BadInput, match="did you mean 'misa'"):
        protocol("miza")
