"""What the numbers of an observation and of an action are called, where that is known.

Of the MuJoCo robots the names are those of the joints in the model's file: an observation is the joints'
positions, the place along the track left out, then their velocities.
"""

from leashrl.tasks import task as find_task
from leashrl.types import Discrete, Spec

HOPPER = ("thigh_joint", "leg_joint", "foot_joint")
WALKER = (*HOPPER, "thigh_left_joint", "leg_left_joint", "foot_left_joint")
CHEETAH = ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")


def robot(joints: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of a robot in the plane: observations, and torques."""
    body = ("rootx", "rootz", "rooty", *joints)
    positions = (f"{name} position" for name in body[1:])
    velocities = (f"{name} velocity" for name in body)
    return (*positions, *velocities), tuple(f"{name} torque" for name in joints)


NAMES = {
    "Hopper": robot(HOPPER),
    "Walker2d": robot(WALKER),
    "HalfCheetah": robot(CHEETAH),
    "Pendulum": (("cos angle", "sin angle", "angular velocity"), ("torque",)),
    "CartPole": (
        ("cart position", "cart velocity", "pole angle", "pole angular velocity"),
        ("push left", "push right"),
    ),
}
"""By the environment's name; of discrete actions, one name an action."""


def names(task: str | None, spec: Spec) -> tuple[list[str], list[str]]:
    """Of observations and actions; `obs[0]` and `action[0]` where nothing is known.

    >>> from leashrl.types import Box
    >>> names("pendulum-medium", Spec(3, Box((-2.0,), (2.0,))))
    (['cos angle', 'sin angle', 'angular velocity'], ['torque'])
    >>> names(None, Spec(2, Discrete(2)))
    (['obs[0]', 'obs[1]'], ['action 0', 'action 1'])
    """
    env_id = (find_task(task).env_id if task else None) or ""
    obs, action = NAMES.get(env_id.partition("-")[0], ((), ()))
    if len(obs) != spec.obs_dim or len(action) != spec.action.dim:
        form = "action {}" if isinstance(spec.action, Discrete) else "action[{}]"
        return [f"obs[{i}]" for i in range(spec.obs_dim)], [form.format(i) for i in range(spec.action.dim)]
    return list(obs), list(action)
