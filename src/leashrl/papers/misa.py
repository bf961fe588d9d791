"""MISA (Ma et al. 2023, arXiv 2210.07484): figure 1, what the critics' last hidden layers hold.

The text draws t-SNE of them for BA and MISA, coloured by reward, and says that BA's lie on regular curves,
since its Q diverged, while MISA's put rewards alike side by side. Here also a number: the share of the
reward's variance that a point's ten neighbours tell (R² of their mean, the point itself left out), in the
layer and in the picture.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.algos.misa import networks
from leashrl.core import State
from leashrl.errors import BadInput
from leashrl.papers.experiments import Done
from leashrl.papers.panels import why
from leashrl.papers.printed import Printed
from leashrl.papers.protocols import Options, Trial, in_words
from leashrl.report.plots import FAINT, INK, need_matplotlib, save
from leashrl.runs.experiment import last_state
from leashrl.runs.results import Result
from leashrl.runs.run import Run
from leashrl.types import Array, Transitions

POINTS, NEIGHBOURS = 2_000, 10


def figure_1(figure: Printed, out: Path, done: Done, options: Options) -> tuple[dict[str, Any], list[Path]]:
    """The embeddings of each run's first seed that did not diverge; where all did, of the first, which stands
    still at its last finite state, under a label that says so."""
    figure_class, tsne = need_matplotlib(), need_sklearn()
    rows, panels = [], {}
    for task, label, result in (
        (task, label, done.results.get(Trial(task, run, paper=figure.paper)))
        for task in done.sources
        for label, run in figure.runs_at(options.scale).items()
    ):
        if result is None:
            continue
        run, state = last_state(result.folder)
        i, end = seed_of(result)
        x, q, reward = embed(run, jax.tree.map(lambda leaf, i=i: leaf[i], state))
        label += f", stopped at update {end:,}" if end else ""
        row = {
            "task": task,
            "data": done.sources[task].about,
            "run": label,
            "seed": run.plan.members[i]["seed"],
        }
        row |= {"stopped at update": end, "mean Q": finite(q.mean())}
        if not np.isfinite(x).all():
            rows.append(row | {"R² of the layer": None, "R² of the picture": None})
            continue
        scaled = (x - x.mean(0)) / np.maximum(x.std(0).max(), 1e-30)
        flat = tsne(n_components=2, init="pca", random_state=0).fit_transform(scaled)
        told = {"R² of the layer": explained(scaled, reward), "R² of the picture": explained(flat, reward)}
        rows.append(row | told)
        panels[f"{label}: mean Q {q.mean():.3g}"] = (flat, reward)
    if not panels:
        raise BadInput(f"misa figure 1 has no run that has ended: {why(done)}")
    file = out / f"misa-figure-1-{options.scale}.png"
    draw(figure_class, panels, f"{', '.join(done.sources)}; {in_words(options)}", file)
    return {"rows": rows, "source": figure.source, "claim": figure.claim}, [file]


def trials(figure: Printed, options: Options) -> list[Trial]:
    need_matplotlib()  # both before the work
    need_sklearn()
    task, runs = options.tasks or figure.tasks[0], figure.runs_at(options.scale)
    return [Trial(task, run, paper=figure.paper) for run in runs.values()]


def seed_of(result: Result) -> tuple[int, int | None]:
    """The first member that did not diverge, and None; else the first, and the update where it stopped."""
    ends = [member.diverged and member.diverged.step for member in result.members]
    return (ends.index(None), None) if None in ends else (0, ends[0])


def finite(value: np.ndarray) -> float | None:
    """JSON has no infinity."""
    return float(value) if np.isfinite(value) else None


def need_sklearn() -> Any:
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise BadInput("t-SNE needs scikit-learn: pip install 'leashrl[report]'") from None
    return TSNE


# --- Embeddings ----------------------------------------------------------------


def embed(run: Run, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of POINTS evenly spaced rows: the first critic's last hidden layer (n, width), Q (n,), reward (n,)."""
    critic = networks(run.plan.config, run.spec).critic
    data = run.data
    assert isinstance(data, Transitions)
    index = np.linspace(0, len(data.reward) - 1, min(POINTS, len(data.reward))).astype(int)
    obs, action = jnp.asarray(data.obs)[index], jnp.asarray(data.action)[index]

    def one(obs: Array, action: Array) -> tuple[Array, Array]:
        # Q is linear in its last layer, so its slope there is the layer below.
        value = lambda out: critic.apply(state.critic | {"out": out}, obs[None], action[None])[0, 0]
        q, slope = jax.value_and_grad(value)(state.critic["out"])
        return slope["kernel"][0, :, 0], q

    x, q = jax.jit(jax.vmap(one))(obs, action)
    return np.asarray(x), np.asarray(q), np.asarray(data.reward)[index]


def explained(x: np.ndarray, reward: np.ndarray) -> float:
    """R² of the mean reward of a point's neighbours, itself left out.

    >>> line = np.arange(100.0)
    >>> bool(explained(line[:, None], line) > 0.99)
    True
    """
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(x).kneighbors(x, return_distance=False)
    guess = np.array([reward[row[row != i][:NEIGHBOURS]].mean() for i, row in enumerate(near)])
    return float(1 - ((reward - guess) ** 2).mean() / reward.var())


# --- Picture -------------------------------------------------------------------


def draw(figure_class: Any, panels: dict[str, tuple[np.ndarray, np.ndarray]], title: str, file: Path) -> None:
    figure = figure_class(figsize=(4.2 * len(panels), 4.0), dpi=150, layout="constrained")
    rewards = np.concatenate([reward for _, reward in panels.values()])
    low, high = np.quantile(rewards, (0.02, 0.98))
    image = None
    for axes, (label, (flat, reward)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        image = axes.scatter(*flat.T, c=reward, s=4, cmap="coolwarm", vmin=low, vmax=high, linewidths=0)
        axes.set(xticks=[], yticks=[])
        axes.set_title(label, loc="left", fontsize=10, color=INK)
        axes.spines[:].set_color(FAINT)
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.8, pad=0.02)
    bar.set_label("reward", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_edgecolor(FAINT)
    figure.suptitle(title, fontsize=9.5, color=INK, x=0.01, ha="left")
    save(figure, file)
