"""The algorithms, one file each, and the plain dictionary that names them. Layer 2."""

from leashrl.algos import bc, bear, brac, brac_plus, fisher_brc, miracle, misa, sac
from leashrl.core import Entry

BRAC = "Wu et al. 2019, arXiv 1911.11361"

REGISTRY: dict[str, Entry] = {
    "bc": Entry(bc.Config, bc.build, "Pomerleau 1991", bc.PRESETS),
    "bear": Entry(bear.Config, bear.build, "Kumar et al. 2019, arXiv 1906.00949", bear.PRESETS, bear.DOMAINS),
    "brac-p": Entry(brac.Config, brac.build, BRAC, brac.PRESETS_P),
    "brac-plus": Entry(
        brac_plus.Config,
        brac_plus.build,
        "Zhang et al. 2020, under review at ICLR 2021; 2021, arXiv 2110.00894",
        brac_plus.PRESETS,
        brac_plus.DOMAINS,
    ),
    "brac-v": Entry(brac.Config, brac.build, BRAC, brac.PRESETS_V),
    "fisher-brc": Entry(
        fisher_brc.Config, fisher_brc.build, "Kostrikov et al. 2021, arXiv 2103.08050", fisher_brc.PRESETS
    ),
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
