"""The algorithms, one file each, and the plain dictionary that names them."""

from leashrl.algos import (
    awac,
    bc,
    bear,
    brac,
    brac_plus,
    cql,
    dt,
    fisher_brc,
    iql,
    mbop,
    miracle,
    misa,
    mopo,
    onestep,
    sac,
    td3_bc,
)
from leashrl.core import Entry

MODULES = (
    *(awac, bc, bear, brac, brac_plus, cql, dt, fisher_brc),
    *(iql, mbop, miracle, misa, mopo, onestep, sac, td3_bc),
)
REGISTRY: dict[str, Entry] = dict(sorted(row for module in MODULES for row in module.ENTRY.items()))
