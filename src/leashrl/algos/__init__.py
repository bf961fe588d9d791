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

BRAC = "Wu et al. 2019, arXiv 1911.11361"

OLD = {  # fmt: skip
    "awac": lambda: Entry(
        awac.Config, awac.build, "Nair et al. 2020, arXiv 2006.09359", awac.PRESETS, awac.DOMAINS
    ),
    "bc": lambda: Entry(
        bc.Config, bc.build, "Pomerleau 1991", bc.PRESETS, discrete=True, offline_only="it has no critic"
    ),
    "bc-10": lambda: Entry(
        bc.Config,
        bc.build,
        "10%BC of Chen et al. 2021, arXiv 2106.01345",
        bc.PRESETS_TEN,
        discrete=True,
        offline_only="it has no critic",
    ),
    "bear": lambda: Entry(
        bear.Config, bear.build, "Kumar et al. 2019, arXiv 1906.00949", bear.PRESETS, bear.DOMAINS
    ),
    "brac-p": lambda: Entry(brac.Config, brac.build, BRAC, brac.PRESETS_P),
    "brac-plus": lambda: Entry(
        brac_plus.Config,
        brac_plus.build,
        "Zhang et al. 2020, under review at ICLR 2021; 2021, arXiv 2110.00894",
        brac_plus.PRESETS,
        brac_plus.DOMAINS,
    ),
    "brac-v": lambda: Entry(brac.Config, brac.build, BRAC, brac.PRESETS_V),
    "cql": lambda: Entry(
        cql.Config, cql.build, "Kumar et al. 2020, arXiv 2006.04779", cql.PRESETS, cql.DOMAINS, discrete=True
    ),
    "dt": lambda: Entry(
        dt.Config,
        dt.build,
        "Chen et al. 2021, arXiv 2106.01345",
        dt.PRESETS,
        dt.DOMAINS,
        view="episodes",
        offline_only="it has no critic",
    ),
    "fisher-brc": lambda: Entry(
        fisher_brc.Config, fisher_brc.build, "Kostrikov et al. 2021, arXiv 2103.08050", fisher_brc.PRESETS
    ),
    "iql": lambda: Entry(
        iql.Config,
        iql.build,
        "Kostrikov et al. 2022, arXiv 2110.06169",
        iql.PRESETS,
        iql.DOMAINS,
        discrete=True,
    ),
    "mbop": lambda: Entry(
        mbop.Config,
        mbop.build,
        "Argenson & Dulac-Arnold 2021, arXiv 2008.05556",
        mbop.PRESETS,
        view="episodes",
        offline_only="it has no policy to improve: it plans",
    ),
    "miracle": lambda: Entry(
        miracle.Config,
        miracle.build,
        "Leibfried & Grau-Moya 2019, arXiv 1909.05950",
        miracle.PRESETS,
        miracle.DOMAINS,
        online=True,
    ),
    "misa": lambda: Entry(
        misa.Config, misa.build, "Ma et al. 2023, arXiv 2210.07484", misa.PRESETS, misa.DOMAINS, discrete=True
    ),
    "mopo": lambda: Entry(
        mopo.Config,
        mopo.build,
        "Yu et al. 2020, arXiv 2005.13239",
        mopo.PRESETS,
        mopo.DOMAINS,
        view="dynamics",
        offline_only="its critic learns from a model of the data, which stays as it is",
    ),
    "onestep": lambda: Entry(
        onestep.Config,
        onestep.build,
        "Brandfonbrener et al. 2021, arXiv 2106.08909",
        onestep.PRESETS,
        offline_only="its critic is the behaviour's, and learns no more while the policy improves",
    ),
    "rebrac": lambda: Entry(
        td3_bc.Config,
        td3_bc.build,
        "Tarasov et al. 2023, arXiv 2305.09836",
        td3_bc.PRESETS_REBRAC,
        td3_bc.DOMAINS_REBRAC,
    ),
    "sac": lambda: Entry(
        sac.Config, sac.build, "Haarnoja et al. 2018, arXiv 1812.05905", sac.PRESETS, online=True
    ),
    "td3-bc": lambda: Entry(
        td3_bc.Config, td3_bc.build, "Fujimoto & Gu 2021, arXiv 2106.06860", td3_bc.PRESETS, td3_bc.DOMAINS
    ),
}

MODULES = (
    awac, bc, bear, brac, brac_plus, cql, dt, fisher_brc, iql, mbop, miracle, misa, mopo, onestep, sac, td3_bc
)  # fmt: skip
NEW = {name: entry for module in MODULES for name, entry in getattr(module, "ENTRY", {}).items()}
REGISTRY: dict[str, Entry] = {name: NEW[name] if name in NEW else old() for name, old in OLD.items()}
