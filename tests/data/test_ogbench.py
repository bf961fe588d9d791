"""OGBench's files: a task's rewards computed on load, faults told in a line, the package's own word."""

import json
import os
import signal

import numpy as np
import pytest

from leashrl.cli import main
from leashrl.data import convert, info, load, make, mazes, ogbench, oracles
from leashrl.data.ogbench import relabelled
from leashrl.data.preprocessing import return_to_go
from leashrl.errors import BadInput
from leashrl.ope.estimator import logged_values
from leashrl.tasks import BARE, TASKS, guess, places
from leashrl.tasks import ogbench as names
from support import script

# the package's own, on the bounds of its action space
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*precision lowered by casting", "ignore:.*Overriding environment"
)
CUBE = {"cubes": np.array([[0.5, 0.0, 0.02]])}


def compact(folder, name="cube-single-play-v0", episodes=3, rows=4, width=28, actions=5, drop=(), **change):
    """A small file in OGBench's layout; the cube is at its goal on the second row of each episode."""
    rng, n = np.random.default_rng(0), episodes * rows
    qpos = rng.normal(size=(n, 21)).astype(np.float32)
    qpos[:, 14:17] = [0.3, 0.2, 0.02]
    qpos[1::rows, 14:17] = [0.5, 0.03, 0.02]
    arrays = {
        "observations": rng.normal(size=(n, width)).astype(np.float32),
        "actions": np.tanh(rng.normal(size=(n, actions))).astype(np.float32),
        "terminals": np.arange(n) % rows == rows - 1,
        "qpos": qpos,
        "qvel": rng.normal(size=(n, 20)).astype(np.float32),
    }
    path = folder / f"{name}.npz"
    np.savez_compressed(path, **{k: v for k, v in (arrays | change).items() if k not in drop})
    return path, arrays


@pytest.fixture
def at_goal(monkeypatch):
    """The task's goal without a simulator, and which task was asked for."""
    asked = []
    monkeypatch.setattr(ogbench, "goal", lambda task: asked.append(task.name) or CUBE)
    return asked


# --- Rewards by hand ---------------------------------------------------------


def test_cubes_count_each_and_end_where_all_are_there():
    goal = {"cubes": np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])}
    qpos = np.zeros((4, 28))
    qpos[:, 21:24] = [1.0, 1.0, 0.0]
    qpos[1, 14] = 0.05  # the first is 5 cm away
    qpos[2, 21:23] = 0.0  # the second is
    qpos[3, 14], qpos[3, 22] = 0.05, 2.0
    reward, done = relabelled("cube-double", goal, {"qpos": qpos})
    assert reward.tolist() == [0.0, -1.0, -1.0, -2.0] and done.tolist() == [True, False, False, False]
    assert reward.dtype == np.float32


def test_the_scene_has_a_cube_two_buttons_a_drawer_and_a_window():
    goal = {"cubes": np.zeros((1, 3)), "buttons": np.array([1, 0]), "drawer": -0.16, "window": 0.2}
    qpos = np.zeros((3, 25))
    qpos[:, 23], qpos[:, 24] = -0.13, 0.17  # behind seven numbers of the cube and two of the buttons
    buttons = np.array([[1, 0], [0, 0], [0, 1]])
    qpos[2, 24] = 0.1
    reward, done = relabelled("scene", goal, {"qpos": qpos, "button_states": buttons})
    assert reward.tolist() == [0.0, -1.0, -3.0] and done.tolist() == [True, False, False]


def test_puzzles_are_their_buttons_and_mazes_a_place():
    goal = {"buttons": np.array([0, 1, 1])}
    state = {"qpos": np.zeros((2, 17)), "button_states": np.array([[0, 1, 1], [1, 1, 0]])}
    reward, done = relabelled("puzzle-3x3", goal, state)
    assert reward.tolist() == [0.0, -2.0] and done.tolist() == [True, False]
    goal = {"xy": np.array([4.0, 0.0]), "tolerance": 0.5}
    qpos = np.zeros((2, 22))
    qpos[0, :2], qpos[1, 15:17] = [4.0, 0.5], [3.6, 0.0]  # the ant is there, then the ball
    assert relabelled("antmaze-large", goal, {"qpos": qpos})[1].tolist() == [True, False]
    assert relabelled("antsoccer-arena", goal, {"qpos": qpos})[1].tolist() == [False, True]


# --- Files -------------------------------------------------------------------


def test_a_file_serves_the_task_that_is_asked_for(tmp_path, at_goal):
    path, arrays = compact(tmp_path)
    data = load(path, task="cube-single-singletask-task4-v0")
    assert at_goal == ["cube-single-singletask-task4-v0"] and data.name == "cube-single-play-v0"
    assert data.reward.tolist() == [-1.0, 0.0, -1.0, -1.0] * 3
    assert data.terminal.tolist() == [False, True, False, False] * 3
    np.testing.assert_array_equal(data.timeout, arrays["terminals"])
    np.testing.assert_array_equal(data.obs, arrays["observations"])
    # no row is paired with the one behind an episode's last, which leads nowhere
    view = data.transitions()
    kept = np.flatnonzero(~arrays["terminals"])
    np.testing.assert_array_equal(view["obs"], arrays["observations"][kept])
    np.testing.assert_array_equal(view["next_obs"], arrays["observations"][kept + 1])
    assert (data.action_space.low, data.action_space.high) == ((-1.0,) * 5, (1.0,) * 5)
    load(path)
    assert at_goal[1:] == ["cube-single-play-singletask-v0"]  # the default one of the file's name


def test_an_episode_that_ends_at_its_goal_is_cut_and_not_over(tmp_path, at_goal):
    qpos = np.zeros((4, 21), np.float32)
    qpos[3, 14:17] = CUBE["cubes"][0]
    path, _ = compact(tmp_path, episodes=1, qpos=qpos)
    data = load(path)
    assert data.reward.tolist() == [-1.0, -1.0, -1.0, 0.0]
    assert not data.terminal.any() and data.timeout.tolist() == [False, False, False, True]


def test_episodes_go_on_when_their_task_is_done(tmp_path, at_goal):
    """The robot goes on to its next goal: a success ends no episode, but for values and in other formats."""
    path, _ = compact(tmp_path)
    data = load(path)
    assert [(part.start, part.stop) for part in data.episodes()] == [(0, 4), (4, 8), (8, 12)]
    assert data.returns().tolist() == [-3.0] * 3 and info(data).episodes == 3 and info(data).terminals == 3
    assert data.top(0.4).episodes() == [slice(0, 4)]
    np.testing.assert_allclose(logged_values(data, 0.5)[:2], [-1.0, 0.0])  # the task is done in row 1
    last = data.ends
    assert return_to_go(data.reward, data.terminal, last, 0.5, -2.0)[:4].tolist() == [-1.0, 0.0, -2.0, -2.0]
    known = data.transitions("dynamics")
    assert len(known["obs"]) == 9 and known["known"].all() and known["terminal"].sum() == 3
    notes = convert(path, tmp_path / "cut.hdf5")
    assert notes == ["episodes are cut where their task is done: only OGBench's files let them go on"]
    cut = load(tmp_path / "cut.hdf5")
    assert len(cut.episodes()) == 6 and cut.hash == data.hash
    np.testing.assert_array_equal(cut.transitions()["next_obs"], data.transitions()["next_obs"])


def test_commands_take_the_task_for_rewards(tmp_path, at_goal, capsys):
    path, _ = compact(tmp_path, "mine")
    assert main(["data", "info", str(path), "--json"]) == 2 and at_goal == []
    assert "name its task" in capsys.readouterr().err
    assert main(["data", "info", str(path), "--task", "cube-single-singletask-task5-v0", "--json"]) == 0
    assert at_goal == ["cube-single-singletask-task5-v0"]
    assert json.loads(capsys.readouterr().out)["terminals"] == 3
    assert main(["data", "check", str(path), "--task", "cube-single-singletask-v0"]) == 0


def test_tasks_and_data_sets_are_found_by_name(tmp_path, at_goal, monkeypatch):
    monkeypatch.setenv("OGBENCH_DATASET_DIR", str(tmp_path))
    compact(tmp_path)
    data = load("cube-single-play-singletask-task3-v0")
    assert at_goal == [data.name] == ["cube-single-play-singletask-task3-v0"]
    assert load("cube-single-play-v0").hash == data.hash  # of the same goal
    with pytest.raises(
        BadInput, match=r"scene-play-v0 is not on this disk: .*scene-play-v0.npz; get it with: curl"
    ):
        load("scene-play-singletask-v0")
    monkeypatch.setenv("LEASHRL_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "cache/ogbench/seed0-episodes1000-v1"
    made.mkdir(parents=True)
    compact(made, "cube-single-noisy-v0")
    assert len(load("cube-single-noisy-singletask-v0")) == 12


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        ("cube-single-play-v0", "scene-singletask-v0", "is of cube-single, and task .* of scene: wrong task"),
        ("mine", None, "holds no rewards: name its task, such as"),
        ("mine", "hopper", "task 'hopper' has none for it"),
        (
            "mine",
            "cube-double-singletask-v0",
            "have 28 dimensions, those of task .* 37: wrong task or wrong file",
        ),
        ("mine", "cube-singel-singletask-v0", "no task .*did you mean"),
    ],
)
def test_a_wrong_task_is_one_line(tmp_path, at_goal, name, task, words):
    path, _ = compact(tmp_path, name)
    with pytest.raises(BadInput, match=words) as found:
        load(path, task=task)
    assert "\n" not in str(found.value) and at_goal == []


def test_a_file_that_lacks_something_is_one_line(tmp_path, at_goal):
    path, _ = compact(tmp_path, drop=("actions",))
    with pytest.raises(BadInput, match="actions"):
        load(path)
    path, _ = compact(tmp_path, qvel=np.zeros((5, 20), np.float32))
    with pytest.raises(BadInput, match="qvel has 5 rows, observations 12"):
        load(path)


# --- Names -------------------------------------------------------------------


def test_names_are_ogbenchs():
    assert names.parse("hopper-medium-v2") is None and names.parse("cube-single-navigate-v0") is None
    assert names.parse("antmaze-giant-explore-v0") is None  # there is no such data set
    task = TASKS["cube-single-play-singletask-task2-v0"]
    assert (task.env_id, task.episodes, task.domain) == ("cube-single-singletask-task2-v0", 50, "ogbench")
    assert (task.min_score, task.max_score, task.max_episode_steps) == (0.0, 1.0, 200)
    assert BARE["scene-singletask-v0"].env_id == "scene-singletask-v0"
    assert guess("x/antmaze-large-navigate-v0.npz").name == "antmaze-large-navigate-singletask-v0"
    assert guess("hopper-medium-like.npz").name == "hopper"


def test_presets_by_task_are_the_printed_ones():
    from leashrl.runs.plan import configure

    def of(algorithm, preset, name):
        return configure(algorithm, preset, TASKS[name], {})

    cube, double = "cube-single-play-singletask-task2-v0", "cube-double-play-singletask-task1-v0"
    ant, giant = "antmaze-large-navigate-singletask-v0", "antmaze-giant-navigate-singletask-v0"
    iql = of("iql", "ogbench", cube)
    assert (iql.temperature, iql.hidden, iql.expectile, iql.gamma) == (1.0, (256,) * 4, 0.9, 0.99)
    assert of("iql", "ogbench", double).temperature == 0.3
    assert (of("iql", "ogbench", ant).temperature, of("iql", "ogbench", ant).hidden) == (10.0, (512,) * 4)
    rebrac = of("rebrac", "ogbench", cube)
    assert (rebrac.policy_penalty, rebrac.critic_penalty, rebrac.batch_size) == (1.0, 0.0, 256)
    assert (of("rebrac", "ogbench", ant).policy_penalty, of("rebrac", "ogbench", giant).gamma) == (
        0.003,
        0.995,
    )
    alphas = {
        cube: 300.0,
        ant: 10.0,
        "puzzle-4x4-play-singletask-v0": 1000.0,
        "scene-play-singletask-v0": 300.0,
    }
    assert {name: of("fql", "authors", name).alpha for name in alphas} == alphas
    assert of("fql", "authors", ant).target == "min" and of("fql", "authors", cube).target == "mean"
    # D4RL's ants are others
    assert of("fql", "authors", "antmaze-large-play-v0").alpha == 3.0
    assert "antmaze" not in places(TASKS[ant], "")


def test_cells_of_a_maze():
    maze = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
    free, corners = mazes.cells(maze)
    assert len(free) == 8 and corners == [(1, 1), (1, 3), (3, 1), (3, 3)]
    assert mazes.apart(maze, (1, 1), 4) == [(3, 3)] and mazes.apart(maze, (1, 1), 5) == []


# --- With the package --------------------------------------------------------

packaged = pytest.mark.slow
parity = script("benchmarks/ogbench_parity.py")


def package():
    """The extra's package, which CI has."""
    import gymnasium
    import ogbench

    gymnasium.register_envs(ogbench)
    return gymnasium, ogbench


@packaged
@pytest.mark.parametrize(
    "recipe",
    [
        *("cube-single-play", "cube-double-noisy", "scene-play", "puzzle-3x3-play"),
        *("pointmaze-medium-navigate", "antmaze-large-explore"),
    ],
)
def test_made_rows_are_what_the_package_makes_of_them(recipe, tmp_path):
    """Observations rebuilt from the stored state, and rewards and masks as the package relabels them."""
    gymnasium, _ = package()
    from ogbench.relabel_utils import relabel_dataset

    short = oracles.Recipe(**{**vars(oracles.RECIPES[recipe]), "rows": 60})
    made = oracles.generate(short, 2, 3, processes=1)
    assert made["terminals"].tolist() == ([False] * 59 + [True]) * 2
    path = tmp_path / f"{recipe}-v0.npz"
    np.savez_compressed(path, **made)
    world = short.world
    assert np.nanmax(parity.observations(world, made, np.arange(0, 120, 7))) < 2e-5
    for number in (1, 3):
        task = f"{world}-singletask-task{number}-v0"
        mine = load(path, task=task)
        theirs = {name: made[name] for name in ("qpos", "button_states") if name in made}
        single = gymnasium.make(task)
        relabel_dataset(task, single, theirs)
        np.testing.assert_array_equal(mine.reward, theirs["rewards"])
        last = made["terminals"]
        np.testing.assert_array_equal(mine.terminal, (theirs["masks"] == 0) & ~last)


@packaged
def test_the_ant_walks_to_its_goals():
    """Three episodes: it stays on its feet and reaches goal after goal, which are many cells apart."""
    made = oracles.generate(oracles.RECIPES["antmaze-medium-navigate"], 3, 0, processes=1)
    xy, ends = made["observations"][:, :2], np.flatnonzero(made["terminals"]) + 1
    assert made["actions"].shape == (3003, 8) and np.abs(made["actions"]).max() <= 1
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        way = np.linalg.norm(np.diff(xy[start:end], axis=0), axis=1)
        assert way.sum() > 60 and way.max() < 1.0  # metres, without jumps
        cells = {tuple(cell) for cell in np.round(xy[start:end] / 4).astype(int)}  # of four metres
        assert len(cells) >= 8


@packaged
def test_any_number_of_processes_makes_the_same_bits():
    short = oracles.Recipe("cube-single", "play", 6, 40)
    one, two = (oracles.generate(short, 6, 0, processes=n) for n in (1, 2))
    fewer = oracles.generate(short, 2, 0, processes=1)
    other = oracles.generate(short, 2, 1, processes=1)
    validation = oracles.generate(short, 2, 0, validation=True, processes=1)
    assert one.keys() == two.keys() == {"observations", "actions", "terminals", "qpos", "qvel"}
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
        np.testing.assert_array_equal(one[name][:80], fewer[name])
    assert not np.array_equal(fewer["observations"], other["observations"])
    assert not np.array_equal(fewer["observations"], validation["observations"])


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@packaged
def test_a_killed_process_is_told_as_such_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(oracles, "several", killed)
    with pytest.raises(BadInput, match="was killed, most likely for want of memory: choose fewer"):
        make("pointmaze-medium-navigate", tmp_path / "maze.npz", episodes=9, processes=2)
    assert not list(tmp_path.iterdir())


@packaged
def test_tables_sizes_are_the_packages():
    gymnasium, _ = package()
    single = {name for name in gymnasium.registry if "singletask" in name and "visual" not in name}
    single -= {name for name in single if name.startswith("humanoidmaze-teleport")}  # cannot be made
    assert single == {task.env_id for task in BARE.values() if task.domain == "ogbench"}
    for world, row in names.WORLDS.items():
        env = gymnasium.make(f"{world}-singletask-v0")
        assert env.observation_space.shape == (row.obs_dim,), world
        assert env.action_space.shape == (row.action_dim,), world
        assert gymnasium.spec(f"{world}-singletask-v0").max_episode_steps == row.max_episode_steps, world
        env.reset(seed=0)
        assert env.unwrapped._reward_task_id == row.default, world
        env.close()


@packaged
def test_an_environment_pays_success_and_hangs_on_its_seed_alone():
    from leashrl.tasks.making import borrow, give_back

    task = TASKS["pointmaze-medium-navigate-singletask-task1-v0"]
    envs = borrow(task, 2)
    goal = ogbench.goal(task)["xy"]

    def walk(env, other=None):
        seen = [env.reset(seed=5)[0]]
        done = False
        while not done:
            if other is not None:
                other.step(other.action_space.sample())
            world = env.unwrapped
            toward = world.get_oracle_subgoal(world.get_xy(), goal)[0] - world.get_xy()
            obs, reward, terminated, truncated, _ = env.step(toward / np.linalg.norm(toward))
            seen.append(obs)
            done = terminated or truncated
        return np.array(seen), reward, terminated

    first, reward, terminated = walk(envs[0])
    assert reward == 1.0 and terminated
    envs[1].reset(seed=9)
    np.random.seed(3)
    again, *_ = walk(envs[0], envs[1])
    np.testing.assert_array_equal(first, again)
    give_back(task, envs)


@packaged
def test_the_ant_is_paid_for_its_way_along_a_direction_that_turns():
    from leashrl.tasks.making import make_one

    env = make_one(TASKS["online-ant-xy-v0"])
    obs, _ = env.reset(seed=4)
    env.action_space.seed(0)
    directions = []
    for step in range(230):
        before, direction = env.unwrapped.data.qpos[:2].copy(), obs[-2:]
        obs, reward, terminated, *_ = env.step(0.3 * env.action_space.sample())
        assert reward == pytest.approx(float((env.unwrapped.data.qpos[:2] - before) @ direction), abs=1e-9)
        assert np.linalg.norm(obs[-2:]) == pytest.approx(1.0) and not terminated, step
        directions.append(direction)
    assert len(np.unique(np.round(directions, 9), axis=0)) == 3  # new ones after 100 and 200 steps
    again, _ = env.reset(seed=4)
    np.testing.assert_array_equal(again[-2:], directions[0])


@packaged
def test_a_made_file_is_kept_and_no_other_is_written_over(tmp_path, monkeypatch):
    monkeypatch.setenv("LEASHRL_CACHE", str(tmp_path / "cache"))
    rows = []
    path = make("pointmaze-medium-stitch", episodes=2, processes=1, report=rows.append)
    assert path.name == "pointmaze-medium-stitch-v0.npz" and rows == [402, 603]  # and one for validation
    validation = path.with_name("pointmaze-medium-stitch-v0-val.npz")
    before = [file.stat().st_mtime_ns for file in (path, validation)]
    assert make("pointmaze-medium-stitch", episodes=2) == path
    assert [file.stat().st_mtime_ns for file in (path, validation)] == before
    data = load(path, task="pointmaze-medium-singletask-task2-v0")
    assert len(data) == 402 and len(data.episodes()) == 2 and len(load(validation)) == 201
    assert json.loads(bytes(data.extras["metadata/made"].item()))["episodes"] == 2
    mine = tmp_path / "mine-v0.npz"
    np.savez(mine, observations=np.zeros(1))
    with pytest.raises(BadInput, match="exists and no recipe made it"):
        make("pointmaze-medium-stitch", mine, episodes=1)
    monkeypatch.setattr(oracles, "generate", lambda *args, **options: pytest.fail("made for nothing"))
    (tmp_path / "a-file").touch()
    with pytest.raises(BadInput, match="a-file"):  # no folder: told before minutes of work
        make("pointmaze-medium-stitch", tmp_path / "a-file" / "x-v0.npz", episodes=1)
    # nor the validation part that somebody has already
    theirs = tmp_path / "other-v0-val.npz"
    np.savez(theirs, observations=np.zeros(1))
    with pytest.raises(BadInput, match=r"other-v0-val.npz exists and no recipe made it"):
        make("pointmaze-medium-stitch", tmp_path / "other-v0.npz", episodes=1)
    with pytest.raises(BadInput, match="takes steps, not episodes"):
        make("pendulum-medium", episodes=1)
