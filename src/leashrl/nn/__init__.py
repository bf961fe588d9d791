"""Networks as pairs of pure functions over plain dictionaries of arrays."""

from leashrl.nn.critic import critic, least, table_critic
from leashrl.nn.density import Vae, mixture, vae
from leashrl.nn.hidden import ACTIVATIONS, PRECISIONS, fast_bfloat16, precision, product, resolved
from leashrl.nn.initial import INITIAL
from leashrl.nn.mlp import Network, Params, free_gaussian, gaussian, mlp, velocity
from leashrl.nn.transformer import transformer

__all__ = [
    "ACTIVATIONS",
    "INITIAL",
    "PRECISIONS",
    "Network",
    "Params",
    "Vae",
    "critic",
    "fast_bfloat16",
    "free_gaussian",
    "gaussian",
    "least",
    "mixture",
    "mlp",
    "precision",
    "product",
    "resolved",
    "table_critic",
    "transformer",
    "vae",
    "velocity",
]
