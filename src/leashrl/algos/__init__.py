"""The algorithms, one file each, and the plain dictionary that names them. Layer 2."""

from leashrl.algos import bc, miracle, misa, sac
from leashrl.core import Entry

REGISTRY: dict[str, Entry] = {
    "bc": Entry(bc.Config, bc.build, "Pomerleau 1991", bc.PRESETS),
    "miracle": Entry(
        miracle.Config,
        miracle.build,
        "Leibfried & Grau-Moya 2019, arXiv 1909.05950",
        miracle.PRESETS,
        miracle.DOMAINS,
        online=True,
    ),
    "misa": Entry(misa.Config, misa.build, "Ma et al. 2023, arXiv 2210.07484", misa.PRESETS, misa.DOMAINS),
    "sac": Entry(sac.Config, sac.build, "Haarnoja et al. 2018, arXiv 1812.05905", sac.PRESETS, online=True),
}
