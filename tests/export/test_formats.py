"""Exported files act as the policies do, and say all that one needs to run them."""

import contextlib
import functools
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import leashrl
from leashrl.algos import REGISTRY
from leashrl.cli import main
from leashrl.core import hyper, override
from leashrl.data import Normaliser
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput
from leashrl.export import check, export_policy, formats
from leashrl.export.names import NAMES
from leashrl.runs.loading import load_policy
from leashrl.runs.plan import Plan
from leashrl.runs.run import Run
from leashrl.types import Box, Discrete, Spec
from support import ROOT
from support.algorithms import small

SPEC = Spec(4, Box((-2.0, 0.0), (2.0, 1.0)))
SPEC_DISCRETE = Spec(4, Discrete(3))
MEAN, STD = np.float32([1, 2, 3, 4]), np.float32([1, 2, 0.5, 3])
CASES = [(name, False) for name in REGISTRY] + [(n, True) for n, entry in REGISTRY.items() if entry.discrete]


@functools.cache
def policy_of(folder, name, discrete=False, options=()):
    """A folder with two members' policies, which no training has made: their weights are drawn."""
    spec, entry = SPEC_DISCRETE if discrete else SPEC, REGISTRY[name]
    config = override(entry.config(), small(name) | dict(options))
    algorithm = entry.build(config, spec)
    keys, hp = (
        jax.random.split(jax.random.key(0), 2),
        jax.tree.map(lambda x: jnp.stack([x, x]), hyper(config)),
    )
    state = jax.vmap(algorithm.init)(keys, hp)
    rng = np.random.default_rng(0)

    def stirred(x):  # an output layer begins near zero, where all heads are alike
        if jnp.issubdtype(x.dtype, jnp.floating):
            return x + (0.6 if x.ndim > 2 else 0.1) * rng.standard_normal(x.shape).astype(np.float32)
        return x

    state = type(state)(**{k: v if k == "hp" else jax.tree.map(stirred, v) for k, v in vars(state).items()})
    members = ({"seed": 0}, {"seed": 1})
    plan = Plan(name, "default", config, {}, None, members, log_every=4, eval_every=4, episodes=0)
    path = folder / f"{name}-{discrete}-{len(options)}-{hash(options) % 1000}"
    Run(plan, None, spec, algorithm, None, Normaliser(MEAN, STD), keys, hp).save_policies(path, state, {})  # pyright: ignore
    return path


@pytest.fixture(autouse=True)
def fewer_rows(monkeypatch):
    """A tenth of what the check looks at, for speed."""
    monkeypatch.setattr(check, "ROWS", 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def session(folder):
    """`run(path)` gives a function of named arrays to a list of arrays, from the file alone."""
    import onnxruntime

    def open_file(path):
        session = onnxruntime.InferenceSession(path)
        return lambda **given: session.run(None, given)

    return open_file


def some_obs(n=7):
    return MEAN + STD * np.random.default_rng(1).standard_normal((n, 4), np.float32)


# --- ONNX --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "discrete"), CASES)
def test_every_algorithm_becomes_an_onnx_file(name, discrete, folder, session):
    """The file against `policy(obs)`, in modes that draw with every draw zero: then they act by the mean."""
    path = policy_of(folder, name, discrete)
    policy = load_policy(path)
    card = export_policy(path, "onnx").to_json()
    assert card["mode"] == policy.modes[0] and card["check"]["max_difference"] < 1e-4
    assert card["check"]["from"].startswith("drawn around the normaliser")
    if name in ("dt", "mbop"):
        assert card["stateful"]
        return  # what their memory does is looked at below
    obs, run = MEAN + (20 if discrete else 1) * (some_obs(60) - MEAN), session(card["path"])
    zeros = {p["name"]: np.zeros([60, *p["shape"][1:]], p["dtype"]) for p in card["inputs"] if "draw" in p}
    assert bool(zeros) == (card["mode"] in ("best", "sample"))
    (found,) = run(obs=obs, **zeros)
    if zeros and "mean" not in policy.modes:  # a flow: noise is where an action begins, zeros are no mean
        other = {
            name: np.random.default_rng(3).standard_normal(x.shape, np.float32) for name, x in zeros.items()
        }
        assert np.abs(unit(found)).max() <= 1 + 1e-6 and not np.allclose(
            run(obs=obs, **other)[0], found, atol=1e-3
        )
        (alone,) = run(obs=obs[2:3], **{name: x[2:3] for name, x in other.items()})
        np.testing.assert_allclose(alone, run(obs=obs, **other)[0][2:3], atol=1e-6)
        return  # the card's check has compared it with the policy, draw for draw
    wanted = policy(obs, mode="mean" if zeros else card["mode"])
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert len(np.unique(wanted, axis=0)) > 1  # it looks at what it is given
    (alone,) = run(obs=obs[2:3], **{name: x[:1] for name, x in zeros.items()})
    np.testing.assert_allclose(alone, found[2:3], atol=1e-6)


@pytest.mark.slow
def test_draws_are_inputs(folder, session):
    """A sample is tanh(mean + std noise): one and the same noise in numpy and in the file."""
    card = export_policy(policy_of(folder, "sac"), "onnx", mode="sample", member="seed-1").to_json()
    assert card["member"] == "seed-1" and card["inputs"][1] == {
        "name": "noise", "shape": ["n", 2], "dtype": "float32", "draw": "standard_normal"
    }  # fmt: skip
    policy, obs = load_policy(policy_of(folder, "sac"), "seed-1"), some_obs()
    noise = np.random.default_rng(2).standard_normal((7, 2), np.float32)
    run = session(card["path"])
    centre, once, twice = (np.arctanh(unit(run(obs=obs, noise=k * noise)[0])) for k in (0, 0.1, 0.2))
    np.testing.assert_allclose(np.tanh(centre), unit(policy(obs, mode="mean")), atol=1e-5)
    inner = np.abs(centre) < 1.5  # beyond, float32 cannot tell u from tanh(u)
    np.testing.assert_allclose((twice - centre)[inner], 2 * (once - centre)[inner], atol=1e-4)
    assert np.abs(once - centre)[inner].max() > 5e-3


def unit(action):
    low, high = np.asarray(SPEC.action.low), np.asarray(SPEC.action.high)
    return 2 * (action.astype(np.float64) - low) / (high - low) - 1


def test_a_categorical_takes_gumbel_noise(folder, session):
    """argmax(logits + Gumbel) is a sample: each action as often as softmax says."""
    path = policy_of(folder, "bc", True)
    card = export_policy(path, "onnx", mode="sample").to_json()
    assert card["inputs"][1]["draw"] == "gumbel"
    obs = np.repeat(some_obs(1), 4000, axis=0)
    (found,) = session(card["path"])(
        obs=obs, noise=np.random.default_rng(0).gumbel(size=(4000, 3)).astype(np.float32)
    )
    params: dict = jax.tree.map(np.asarray, load_policy(path).params)
    x = (obs[:1] - MEAN) / STD
    for layer in params["hidden"]:
        x = np.maximum(x @ layer["kernel"] + layer["bias"], 0)
    logits = (x @ params["out"]["kernel"] + params["out"]["bias"])[0]
    wanted = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(np.bincount(found, minlength=3) / 4000, wanted, atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), [("dt", None), ("mbop", "mean"), ("mbop", "plan")])
def test_memory_goes_in_and_comes_out(name, mode, folder, session):
    """Two episodes in one file call, the second begun three steps later; `policy.episode` is the measure."""
    path = policy_of(folder, name)
    policy = load_policy(path)
    card = export_policy(path, "onnx", mode=mode).to_json()
    run, ports = session(card["path"]), card["inputs"]
    carried = [p for p in ports if "next" in p]
    assert [p["next"] for p in carried] == [p["name"] for p in card["outputs"][1:]]
    start = lambda: {p["name"]: np.full([1, *p["shape"][1:]], p["initial"], p["dtype"]) for p in carried}
    acts, memory = [policy.episode(mode=mode), None], start()
    memory = {name: np.concatenate([x, x]) for name, x in memory.items()}
    keys = [jax.random.key(0)] * 2
    obs, reward = (
        some_obs(16).reshape(8, 2, 4),
        np.random.default_rng(3).normal(size=(8, 2)).astype(np.float32),
    )
    for t in range(8):
        if t == 3:  # the second one's memory begins anew, in the middle of the first one's episode
            acts[1], keys[1] = policy.episode(mode=mode), jax.random.key(0)
            memory = {name: np.concatenate([x[:1], start()[name]]) for name, x in memory.items()}
        pairs = [jax.random.split(key) for key in keys]
        keys = [pair[0] for pair in pairs]
        given = {"obs": obs[t], "reward": reward[t]} | memory
        for p in ports:
            if "draw" in p:
                given[p["name"]] = np.stack([jax.random.normal(pair[1], p["shape"][1:]) for pair in pairs])
        action, *after = run(**{p["name"]: given[p["name"]] for p in ports})
        for i, act in enumerate(acts):
            if act is not None:
                np.testing.assert_allclose(action[i], act(obs[t, i], float(reward[t, i])), atol=1e-5)
        memory = dict(zip(memory, after, strict=True))


@pytest.mark.slow
def test_what_jax2onnx_patches_is_put_back(folder):
    path, obs = policy_of(folder, "iql"), some_obs()
    before = load_policy(path)(obs)
    export_policy(path, "onnx")
    jax.clear_caches()
    np.testing.assert_array_equal(load_policy(path)(obs), before)


# --- StableHLO and numpy -----------------------------------------------------


@pytest.mark.parametrize(("name", "discrete"), [("iql", False), ("brac-plus", False), ("cql", True)])
def test_stablehlo_goes_round(name, discrete, folder):
    path = policy_of(folder, name, discrete)
    card = export_policy(path, "stablehlo", mode="greedy" if discrete else "mean").to_json()
    read = jax.export.deserialize(bytearray(Path(card["path"]).read_bytes()))
    assert set(read.platforms) == {"cpu", "cuda", "tpu"} == set(card["platforms"])
    for n in (1, 5):
        (found,) = read.call(some_obs(n))
        np.testing.assert_allclose(found, load_policy(path)(some_obs(n), mode=card["mode"]), atol=1e-6)


def test_stablehlo_keeps_memory(folder):
    path = policy_of(folder, "dt")
    card = export_policy(path, "stablehlo").to_json()
    read = jax.export.deserialize(bytearray(Path(card["path"]).read_bytes()))
    assert len(read.in_avals) == len(card["inputs"]) and len(read.out_avals) == len(card["outputs"])


@pytest.mark.parametrize("activation", ["relu", "elu", "swish", "tanh"])
def test_the_activation_is_told(activation, folder):
    path = policy_of(folder, "misa", False, (("policy_activation", activation),))
    card = export_policy(path, "numpy").to_json()
    assert (card["activation"], card["head"], card["layers"]) == (activation, "tanh", 3)


@pytest.mark.parametrize(
    ("name", "discrete", "head"),
    [("awac", False, "clip"), ("onestep", False, "tanh"), ("iql", True, "argmax")],
)
def test_a_numpy_file_holds_a_plain_network(name, discrete, head, folder):
    path = policy_of(folder, name, discrete)
    card = export_policy(path, "numpy").to_json()
    assert (card["activation"], card["head"]) == ("relu", head)
    with np.load(card["path"], allow_pickle=False) as read:
        arrays = dict(read)
    x = (some_obs() - arrays["obs_mean"]) / arrays["obs_std"]
    for i in range(3):
        x = x @ arrays[f"kernel_{i}"] + arrays[f"bias_{i}"]
        x = np.maximum(x, 0) if i < 2 else x
    if head == "argmax":
        found = np.argmax(x, -1)
    else:
        x = np.tanh(x) if head == "tanh" else np.clip(x, -1, 1)
        found = arrays["low"] + (x + 1) / 2 * (arrays["high"] - arrays["low"])
    np.testing.assert_allclose(found, load_policy(path)(some_obs()), atol=1e-5)


# --- What cannot be, and what is not so --------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given", "line"),
    [
        ("bc", {"format": "onxx"}, "no format 'onxx': did you mean 'onnx'?"),
        ("bc", {"format": "numpy", "mode": "men"}, "bc has no mode 'men': did you mean 'mean'?"),
        ("bc", {"format": "numpy", "member": "seed-7"}, "no member 'seed-7'"),
        ("dt", {"format": "numpy"}, "dt acts here by more than one: --format onnx or stablehlo"),
        ("mbop", {"format": "numpy"}, "mbop acts here by more than one"),
        ("bear", {"format": "numpy"}, "--format onnx or stablehlo, or --mode mean"),
        ("bc", {"format": "numpy", "data": "pendulum-medium"}, "sees 4 numbers, 'pendulum-medium' has"),
        ("bc", {"format": "numpy", "data": "nowhere.hdf5"}, "nowhere.hdf5"),
    ],
)  # fmt: skip
def test_a_line_says_what_cannot_be(name, given, line, folder, tmp_path):
    with pytest.raises(BadInput, match=re.escape(line)):
        export_policy(policy_of(folder, name), **given, out=tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_draw_that_cannot_become_an_input_is_refused(folder, monkeypatch):
    path = policy_of(folder, "sac")
    policy = load_policy(path)
    coin = lambda params, carry, timestep, key, mode: (jax.random.uniform(key, (2,)), carry)
    monkeypatch.setattr(
        "leashrl.export.load_policy",
        lambda *a: type(policy)(**vars(policy) | {"policy": policy.policy._replace(act=coin)}),
    )
    with pytest.raises(BadInput, match=r"sac in mode 'mean' draws in a way .* \(mean, sample\)$"):
        export_policy(path, "stablehlo")


@pytest.mark.parametrize("wrong", [lambda x: x + 1e-3, lambda x: x * np.nan, lambda x: x[::-1]])
def test_a_file_that_acts_otherwise_is_not_left(wrong, folder, tmp_path, monkeypatch):
    def broken(program, policy):
        made = formats.numpy(program, policy)
        return made._replace(run=lambda rows: [wrong(x) for x in made.run(rows)])

    monkeypatch.setitem(formats.FORMATS, "numpy", (".npz", broken))
    with pytest.raises(BadInput, match=r"does not act as .*: \d+ of 100 .* nothing was written"):
        export_policy(policy_of(folder, "bc"), "numpy", out=tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "package"), [("onnx", "jax2onnx"), ("onnx", "onnxruntime"), ("stablehlo", "flatbuffers")]
)
def test_a_missing_package_is_named(format, package, folder, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "jax._src.export.serialization", raising=False)  # which imports it
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        BadInput, match=rf"--format {format} needs {package}: pip install 'leashrl\[export\]'"
    ):
        export_policy(policy_of(folder, "bc"), format, out=tmp_path / "file")


def test_damaged_and_unfinished_runs_are_told(folder, tmp_path, capsys):
    path = policy_of(folder, "bc")
    (tmp_path / "policy.json").write_bytes((path / "policy.json").read_bytes())
    (tmp_path / "seed-0.safetensors").write_bytes((path / "seed-0.safetensors").read_bytes()[:-9])
    assert main(["export", str(tmp_path), "--format", "numpy"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("leashrl: error: cannot read") and error.count("\n") == 1
    assert main(["export", str(tmp_path / "none")]) == 2
    assert "no policy in" in capsys.readouterr().err


# --- A run -------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "bc"
    options = {"hidden": (8, 8)}
    leashrl.train("bc", "pendulum-medium", seeds=2, steps=20, episodes=1, options=options, out=out)
    return out


def test_a_card_says_what_the_run_says(trained, monkeypatch):
    monkeypatch.setattr(check, "ROWS", 1000)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["export", str(trained), "--member", "seed-1", "--json"]) == 0
    told = json.loads(out.getvalue())
    path = trained / "export" / "seed-1.onnx"
    card = json.loads(path.with_name("seed-1.onnx.json").read_text())
    assert told == {"path": str(path)} | card
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and card["file"] == path.name
    assert card["inputs"][0]["names"] == ["cos angle", "sin angle", "angular velocity"]
    action = {"name": "action", "shape": ["n", 1], "dtype": "float32", "names": ["torque"]}
    assert card["outputs"][0] == action | {"low": [-2.0], "high": [2.0]}
    data = leashrl.load("pendulum-medium")
    assert card["data"] == {"name": "pendulum-medium", "hash": data.hash}
    assert card["check"]["hash"] == data.hash and card["check"]["observations"] == 1000
    np.testing.assert_allclose(card["normalisation"]["obs_mean"], data.obs.mean(0), atol=5e-3)
    row = json.loads((trained / "result.json").read_text())["members"][1]
    assert card["score"]["score"] == row["score"] and card["score"]["episodes"] == 1
    assert card["versions"]["onnxruntime"]


def test_a_policy_copied_alone_has_no_scores(trained, tmp_path):
    (tmp_path / "copy").mkdir()
    for file in (trained / "policy").iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    card = export_policy(tmp_path / "copy", "numpy").to_json()
    assert card["path"] == str(tmp_path / "copy" / "export" / "seed-0.npz")
    assert card["data"] is None and card["score"] is None and "no data found" in card["check"]["from"]
    inside = export_policy(trained / "policy", "numpy").to_json()
    assert inside["path"] == str(trained / "export" / "seed-0.npz") and inside["score"]


@pytest.mark.slow
def test_from_python_a_card_has_types(trained, folder):
    exported = export_policy(trained, "numpy")
    assert exported.path == trained / "export" / "seed-0.npz" and exported.activation == "relu"
    assert exported.opset is None and exported.platforms is None and exported.layers == 3
    assert exported.inputs[0].shape == ("n", 3) and exported.outputs[0].low == (-2.0,)
    assert exported.check.source == "pendulum-medium" and exported.check.max_difference < 1e-4
    assert exported.score is not None and exported.data is not None and not exported.stateful
    row = json.loads((trained / "result.json").read_text())["members"][0]
    assert exported.score.returns.final == row["return"]["final"] and exported.score.mode == "mean"
    card = json.loads((trained / "export" / "seed-0.npz.json").read_text())
    assert json.dumps(exported.to_json()) == json.dumps({"path": str(exported.path)} | card)
    names = ["path", "card", "file", "format", "sha256", "activation", "head", "layers"]
    names += ["algorithm", "member", "mode", "task", "stateful", "inputs", "outputs"]
    assert list(exported.to_json()) == [*names, "normalisation", "data", "score", "check", "versions"]
    assert list(card["check"])[:3] == ["observations", "from", "hash"]
    obs, *rest = export_policy(policy_of(folder, "mbop"), "stablehlo").inputs
    memory = [port for port in rest if port.next]
    assert (obs.next, obs.initial) == (None, None) and memory
    assert all(port.initial == 0 and port.name.startswith("carry_") for port in memory)


def test_exports_are_the_runs_own(trained):
    """`--overwrite` deletes them with the run, and refuses where something else lies among them."""
    from leashrl.disk.claim import earlier_run

    export_policy(trained, "numpy")
    assert trained / "export" in earlier_run(trained, overwrite=True)


def test_an_online_run_is_checked_on_what_it_saw(folder, tmp_path):
    from leashrl.disk.checkpoint import to_bytes
    from leashrl.disk.files import write_atomically

    (tmp_path / "replay").mkdir()
    end = np.array([[False, True, False]] * 2)
    rows = {"obs": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "reward": np.float32([[1, 2, 3]] * 2)}
    write_atomically(
        tmp_path / "replay" / "rows-0000000000.safetensors",
        to_bytes(rows | {"terminal": end, "timeout": end}),
    )
    run = RunFolder(tmp_path)
    found = check.observations(load_policy(policy_of(folder, "sac")), None, run, {"source": "online"})
    np.testing.assert_array_equal(found.obs, rows["obs"][0])
    assert found.first.tolist() == [True, False, True] and found.reward.tolist() == [0, 1, 0]


def test_rewards_come_a_row_later_and_stop_at_an_end(folder):
    data = leashrl.Dataset.from_arrays(
        np.zeros((5, 4)), np.zeros((5, 2)), [1, 2, 3, 4, 5], [0, 0, 1, 0, 0], action_space=SPEC.action
    )
    found = check.observations(load_policy(policy_of(folder, "sac")), data, None, {})
    assert found.first.tolist() == [True, False, False, True, False] and found.reward.tolist() == [
        0,
        1,
        2,
        0,
        4,
    ]


# --- Outside -----------------------------------------------------------------

BLOCKED = "import sys; sys.modules.update(jax=None, leashrl=None); import runpy; runpy.run_path({!r})"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bc", "bear", "dt", "mbop"])
def test_the_example_needs_neither_jax_nor_leashrl(name, folder):
    path = policy_of(folder, name)
    card = export_policy(path, "onnx").to_json()
    script = BLOCKED.format(str(ROOT / "examples" / "onnx_policy.py"))
    done = subprocess.run(
        [sys.executable, "-c", script, card["path"]], capture_output=True, text=True, check=True
    )
    lines = [np.array(line.strip("[]").split(), float) for line in done.stdout.splitlines()]
    assert len(lines) == 3 and done.stderr == ""
    if name == "bc":
        np.testing.assert_allclose(lines[0], load_policy(path)(MEAN), atol=1e-5)


@pytest.mark.parametrize(
    ("env", "file"), [("Hopper", "hopper"), ("Walker2d", "walker2d"), ("HalfCheetah", "half_cheetah")]
)
def test_names_are_those_of_the_robots_joints(env, file):
    import gymnasium
    import mujoco

    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    model = mujoco.MjModel.from_xml_path(str(assets / f"{file}.xml"))
    joints = [model.joint(i).name for i in range(model.njnt)]
    wanted = [f"{name} position" for name in joints[1:]] + [f"{name} velocity" for name in joints]
    moved = [model.joint(model.actuator(i).trnid[0]).name for i in range(model.nu)]
    assert NAMES[env] == (tuple(wanted), tuple(f"{name} torque" for name in moved))
