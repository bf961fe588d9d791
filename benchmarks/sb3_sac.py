"""stable-baselines3's SAC on one task; `benchmarks/sac.py` runs it in an environment of its own.

Settings are those of `leashrl train sac`: networks, rates, batch, replay, warm-up, one update a step. Prints
lines of JSON, each with the seconds since the process began: every 1000 steps, every episode's end, and the
episodes of an evaluation at the end.
"""
# pyright: reportMissingImports=false

import argparse
import json
import time
import warnings

START = time.perf_counter()
warnings.filterwarnings("ignore")

import gymnasium as gym  # noqa: E402
import stable_baselines3  # noqa: E402
import torch  # noqa: E402
from stable_baselines3 import SAC  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402


def say(**row) -> None:
    print(json.dumps(row | {"seconds": time.perf_counter() - START}), flush=True)


class Progress(BaseCallback):
    """A line an episode, and one every 1000 steps."""

    def _on_step(self) -> bool:
        if self.num_timesteps % 1000 == 0:
            say(kind="step", step=self.num_timesteps)
        for info in self.locals["infos"]:
            if "episode" in info:
                say(kind="episode", step=self.num_timesteps, value=float(info["episode"]["r"]))
        return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("env_id")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(2)
    say(
        kind="versions", sb3=stable_baselines3.__version__, torch=torch.__version__, gymnasium=gym.__version__
    )
    model = SAC(
        "MlpPolicy",
        args.env_id,
        learning_rate=args.rate,
        buffer_size=1_000_000,
        learning_starts=args.warmup,
        batch_size=args.batch,
        policy_kwargs={"net_arch": [256, 256]},
        seed=args.seed,
        device="cpu",
    )
    model.learn(args.warmup + args.steps, callback=Progress())
    env = gym.make(args.env_id)
    for i in range(args.episodes):
        obs, _ = env.reset(seed=1000 + i)
        total, over = 0.0, False
        while not over:
            obs, reward, terminal, timeout, _ = env.step(model.predict(obs, deterministic=True)[0])
            total, over = total + float(reward), terminal or timeout
        say(kind="evaluation", value=total)


if __name__ == "__main__":
    main()
