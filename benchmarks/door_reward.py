"""The evaluation wrapper's door reward against the reward stored with human demonstrations.

Every step of a D4RL-layout door file that holds its simulator states (`infos/qpos`, `infos/qvel`,
`infos/door_body_pos`) is replayed: the state is set, the stored action is stepped, and the reward paid is
compared with the stored one.

    python benchmarks/door_reward.py FILE.hdf5 [--json]
"""

import argparse
import json
from typing import Any

import h5py
import numpy as np

from leashrl.tasks import task
from leashrl.tasks.making import make_one


def main() -> None:
    parser = argparse.ArgumentParser(description="Door reward against stored rewards.")
    parser.add_argument("file")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    file: Any = h5py.File(options.file)
    actions, stored = file["actions"][()], file["rewards"][()].reshape(-1)
    qpos, qvel, door = (
        file[f"infos/{key}"][()].astype(np.float64) for key in ("qpos", "qvel", "door_body_pos")
    )

    env: Any = make_one(task("door"))
    env.reset(seed=0)
    paid, plain = np.zeros(len(stored)), np.zeros(len(stored))
    for i, action in enumerate(actions):
        state = {"qpos": qpos[i], "qvel": qvel[i], "door_body_pos": door[i]}
        env.unwrapped.set_env_state(state)
        paid[i] = env.step(action)[1]
        env.unwrapped.set_env_state(state)
        plain[i] = np.squeeze(env.unwrapped.step(action)[1])
    error = np.abs(paid - stored)
    result = {
        "steps": len(stored),
        "max_error": float(error.max()),
        "mean_error": float(error.mean()),
        "steps_over_1e-4": int((error > 1e-4).sum()),
        "max_error_without_wrapper": float(np.abs(plain - stored).max()),
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(" · ".join(f"{name} {value:.4g}" for name, value in result.items()))


if __name__ == "__main__":
    main()
