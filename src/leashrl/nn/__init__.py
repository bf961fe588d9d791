"""Networks as pairs of pure functions over plain dictionaries of arrays. Layer 1."""

from leashrl.nn.critic import critic
from leashrl.nn.mlp import ACTIVATIONS, Network, gaussian, mlp

__all__ = ["ACTIVATIONS", "Network", "critic", "gaussian", "mlp"]
