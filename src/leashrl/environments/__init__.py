"""The tasks' environments, corrected to what D4RL's were. Gymnasium is imported when one is made. Layer 3."""

from leashrl.environments.making import borrow, env_seed, give_back, make_env, make_one, versions, whole

__all__ = ["borrow", "env_seed", "give_back", "make_env", "make_one", "versions", "whole"]
