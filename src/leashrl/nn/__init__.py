"""Networks as pairs of pure functions over plain dictionaries of arrays."""

from leashrl.nn.critic import critic, least, table_critic
from leashrl.nn.density import Vae, mixture, vae
from leashrl.nn.initial import INITIAL
from leashrl.nn.mlp import ACTIVATIONS, Network, Params, free_gaussian, gaussian, mlp
from leashrl.nn.transformer import transformer

__all__ = [
    "ACTIVATIONS",
    "INITIAL",
    "Network",
    "Params",
    "Vae",
    "critic",
    "free_gaussian",
    "gaussian",
    "least",
    "mixture",
    "mlp",
    "table_critic",
    "transformer",
    "vae",
]
