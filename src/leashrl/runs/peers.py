"""DDPG and PPO of stable-baselines3, for comparison: on our tasks, into our files.

The library (the extra `peers`) is imported when it is needed. A run leaves config.json, episodes.jsonl,
evaluations.jsonl and result.json as our own online runs do; `step` in them is environment steps. The library
stores an agent as a zip file with pickles inside, which is neither written nor read here: so there is no
checkpoint, no policy/, and no resume.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from leashrl.algos.common import positive, within
from leashrl.core import override, to_json
from leashrl.disk.claim import claim_folder
from leashrl.disk.files import Lines, versions
from leashrl.disk.folder import RunFolder
from leashrl.errors import BadInput, Diverged
from leashrl.runs.events import Ended, Evaluated, MemberDiverged, Report, Started, silent
from leashrl.runs.execute import outcome
from leashrl.runs.plan import ONLINE, Plan, make_members, member_name
from leashrl.runs.results import Result
from leashrl.tasks import normalise
from leashrl.tasks import task as find_task
from leashrl.tasks.making import env_seed, make_one, whole

if TYPE_CHECKING:
    import gymnasium as gym

# --- Options -----------------------------------------------------------------

# Networks, rates, discount, batch and replay are those of the MIRACLE text's appendix F; the others are the
# library's, version 2.9, except for `noise`. All but `steps`, `hidden`, `noise` are its keyword arguments.


@dataclasses.dataclass(frozen=True)
class DDPG:
    """DDPG: a deterministic policy that follows its critic, with a replay."""

    steps: int = 1_000_000
    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4
    buffer_size: int = 1_000_000
    learning_starts: int = 100
    batch_size: int = 256
    tau: float = 0.005
    gamma: float = 0.99
    noise: float = 0.1  # standard deviation in units of [-1, 1]: TD3's; the library's default never explores

    def __post_init__(self) -> None:
        positive(self, "steps", "buffer_size", "batch_size")
        within(self, 0, 1, "tau", "gamma")
        within(self, 0, math.inf, "learning_rate", "noise")


@dataclasses.dataclass(frozen=True)
class PPO:
    """PPO: a Gaussian policy, improved on its newest `n_steps` steps within a clipped ratio."""

    steps: int = 1_000_000
    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4
    n_steps: int = 2048
    batch_size: int = 256
    n_epochs: int = 10
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        positive(self, "steps", "n_epochs")
        within(self, 2, math.inf, "n_steps", "batch_size")  # advantages are divided by their spread
        within(self, 0, 1, "gamma", "gae_lambda")
        within(self, 0, math.inf, "learning_rate", "clip_range", "max_grad_norm")


class Peer(NamedTuple):
    config: type
    paper: str


PEERS = {
    "ddpg": Peer(DDPG, "Lillicrap et al. 2016, arXiv 1509.02971"),
    "ppo": Peer(PPO, "Schulman et al. 2017, arXiv 1707.06347"),
}

# --- Runs --------------------------------------------------------------------


def train(
    name: str,
    task: str | None,
    *,
    seeds: int | Sequence[int] = 3,
    steps: int | None = None,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    eval_every: int | None = None,
    episodes: int | None = None,
    overwrite: bool = False,
    report: Report | None = None,
) -> Result:
    """Train one seed after the other, and leave the artefacts in `out`.

    The arguments are those of `leashrl.train`, steps those of the environment. `report` gets the events
    start, evaluation, diverged and end.

    Raises:
      BadInput: anything about the arguments, a missing package or the disk, before anything is written.
    """
    say = report or silent
    if task is None or task == "none":
        raise BadInput(f"{name} learns in a task's environment: give --task")
    place, config = find_task(task), PEERS[name].config()
    config = override(config, dict(options or {}) | ({} if steps is None else {"steps": steps}))
    if isinstance(config, PPO) and config.steps < config.n_steps:
        raise BadInput(
            f"ppo learns first after 'n_steps', {config.n_steps} steps: {config.steps} are too few"
        )
    plan = Plan(
        algorithm=name,
        preset="default",
        config=config,
        data=ONLINE,
        task=place.name,
        members=make_members(config, seeds, {}),
        log_every=0,
        eval_every=whole("eval_every", max(1, config.steps // 10) if eval_every is None else eval_every, 1),
        episodes=whole("episodes", place.episodes if episodes is None else episodes, 1),
    )
    need_library(name)
    make_one(place).close()  # a missing simulator is told now
    found = versions("stable-baselines3", "torch")
    library = f"stable-baselines3 {found.get('stable-baselines3', '')}".strip()
    folder = Path(out) if out else Path("runs") / f"{name}-{place.name}-online"
    with claim_folder(folder, overwrite):
        files = RunFolder(folder)
        files.write_config(plan.to_json() | {"library": library, "versions": found})
        say(Started(plan, folder, place, total=config.steps, library=library))
        ended, looks = files.episodes_to(-1), files.evaluations_to(-1)
        fallen: dict[int, tuple[int, str]] = {}
        for i, member in enumerate(plan.members):
            at = train_member(plan, member, ended, looks, say)
            if at is not None:
                fallen[i] = (at, "action")
                say(MemberDiverged(member_name(member), at, "action"))
        result = dataclasses.replace(outcome(plan, files, config.steps, fallen), versions=found)
        files.write_result(result.to_json())
    say(Ended(result))
    return result


def need_library(name: str) -> None:
    try:
        import stable_baselines3  # noqa: F401  # pyright: ignore[reportMissingImports]
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BadInput(f"{name} needs stable-baselines3 ({error}): pip install 'leashrl[peers]'") from None
    # So that actions which are not finite come as far as our environment, and end in no traceback of torch's.
    torch.distributions.Distribution.set_default_validate_args(False)


def train_member(
    plan: Plan, member: Mapping[str, float], episodes: Lines, evaluations: Lines, say: Report
) -> int | None:
    """Train and evaluate one seed; the step at which its actions were no longer finite, if they were not."""
    place, steps, seed = find_task(str(plan.task)), plan.config.steps, int(member["seed"])

    def note(row: dict[str, Any]) -> None:
        if row["step"] <= steps:
            episodes.write(row | dict(member))

    # Episodes start as those of our own online runs (`online.Simulator`).
    begin = lambda i: int(np.random.SeedSequence([seed, i, 1]).generate_state(1)[0])
    env, judge = watched(make_one(place), begin, note), make_one(place)
    model = build(plan.algorithm, plan.config, env, seed)

    def look(step: int) -> None:
        found = evaluate(model, judge, plan)
        returns = [row["return"] for row in found]
        score = None if place.min_score is None else float(normalise(place, returns).mean())
        row = {"step": step} | dict(member) | {"return": float(np.mean(returns)), "score": score}
        evaluations.write(row | {"returns": returns, "lengths": [row["length"] for row in found]})
        say(Evaluated(step, [{"member": member_name(member)} | row]))

    def after_step(*_: Any) -> bool:
        if env.taken < steps and env.taken % plan.eval_every == 0:
            look(env.taken)
        # True at the last step too, so that an update due then is made. PPO would go on to a multiple of
        # `n_steps`: False ends it one step later, which counts nowhere.
        return env.taken <= steps

    try:
        model.learn(steps, callback=after_step)
        look(steps)
    except Diverged:
        return min(env.taken, steps)
    finally:
        env.close()
        judge.close()


def build(name: str, config: Any, env: "gym.Env", seed: int) -> Any:
    """The library's agent."""
    import stable_baselines3  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.noise import NormalActionNoise  # pyright: ignore[reportMissingImports]

    given = to_json(config)
    steps, hidden, noise = given.pop("steps"), given.pop("hidden"), given.pop("noise", 0.0)
    if "buffer_size" in given:
        given["buffer_size"] = min(given["buffer_size"], steps)  # all of it is allocated
    if noise:
        shape = env.action_space.shape or ()
        given["action_noise"] = NormalActionNoise(np.zeros(shape), np.full(shape, noise))
    policy = {"net_arch": hidden, "activation_fn": torch.nn.ReLU}
    agent = getattr(stable_baselines3, name.upper())
    return agent("MlpPolicy", env, policy_kwargs=policy, seed=seed, device="cpu", **given)


def evaluate(model: Any, env: "gym.Env", plan: Plan) -> list[dict[str, Any]]:
    """The episodes that `leashrl.evaluate` plays, with the deterministic actions."""
    rows: list[dict[str, Any]] = []
    env = watched(env, lambda i: env_seed(plan.eval_seed, i), rows.append)
    while len(rows) < plan.episodes:
        obs, over = env.reset()[0], False
        while not over:
            obs, _, terminal, timeout, _ = env.step(model.predict(obs, deterministic=True)[0])
            over = terminal or timeout
    return rows


def watched(env: "gym.Env", begin: Callable[[int], int], note: Callable[[dict[str, Any]], None]) -> Any:
    """`env`, episode i started from seed `begin(i)`, a row for `note` at its end; Diverged for a NaN action.

    Observations are float32, as our own algorithms see them: that halves the replay of a MuJoCo task.
    """
    import gymnasium as gym

    class Watched(gym.Wrapper):
        taken, episode, total, length = 0, -1, 0.0, 0

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
            self.episode += 1
            self.total, self.length = 0.0, 0
            return self.env.reset(seed=begin(self.episode), options=options)

        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
            if not np.isfinite(action).all():
                raise Diverged("the policy gave an action that is not finite")
            found = _, paid, terminal, timeout, _ = self.env.step(action)
            self.taken += 1
            self.total += float(paid)
            self.length += 1
            if terminal or timeout:
                note({"step": self.taken, "return": self.total, "length": self.length})
            return found

    return Watched(gym.wrappers.DtypeObservation(env, np.float32))
