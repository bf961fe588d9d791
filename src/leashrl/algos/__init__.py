"""The algorithms, one file each, and the plain dictionary that names them. Layer 2."""

from leashrl.algos import bc, misa
from leashrl.core import Entry

REGISTRY: dict[str, Entry] = {
    "bc": Entry(bc.Config, bc.build, "Pomerleau 1991", bc.PRESETS),
    "misa": Entry(misa.Config, misa.build, "Ma et al. 2023, arXiv 2210.07484", misa.PRESETS, misa.DOMAINS),
}
