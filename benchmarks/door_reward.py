"""The evaluation wrapper's door reward against the reward stored with human demonstrations.

Every step of a D4RL-layout door file that holds its simulator states (`infos/qpos`, `infos/qvel`,
`infos/door_body_pos`) is replayed: the state is set, the stored action is stepped, and the reward paid is
compared with the stored one.

    python benchmarks/door_reward.py FILE.hdf5 [--json]
"""

import argparse
import json

import h5py
import numpy as np

from leashrl.evaluate import make_env
from leashrl.tasks import task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with h5py.File(options.file) as file:
        read = lambda key: file[key][()]
        actions, stored = read("actions"), read("rewards").reshape(-1)
        qpos, qvel = read("infos/qpos").astype(np.float64), read("infos/qvel").astype(np.float64)
        door = read("infos/door_body_pos").astype(np.float64)

    env = make_env(task("door"), n=1, seed=0).envs[0]
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
