"""Figures with one look: the same net has the same colour everywhere, axes have names and units."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

COLOURS = {"standard": "#7f7f7f", "robust": "#0072b2", "generative": "#e69f00", "attack": "#d55e00"}
MARKERS = {"standard": "s", "robust": "o", "generative": "^", "attack": "X"}   # told apart in greyscale, too


def use():
    """Set the common style; called once at the top of a notebook."""
    sns.set_theme(context="notebook", style="ticks", rc={
        "figure.dpi": 80, "savefig.dpi": 80, "savefig.bbox": "tight", "figure.constrained_layout.use": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium", "axes.titlelocation": "left",
        "image.interpolation": "none", "image.cmap": "gray", "legend.frameon": False})


def spectra(spectra, fits, title):
    """Eigenvalues against their rank, log-log, with their power laws.

    spectra  {net: (seeds, n)} eigenvalues, one spectrum a seed; the band spans the seeds.
    fits     {net: (exponent, R2)} of the mean over seeds, fitted to the first `k` of them: (exponent, R2, k).
    """
    figure, ax = plt.subplots(figsize=(6.5, 4.2))
    for net, values in spectra.items():
        values = np.asarray(values)
        i = np.arange(1, values.shape[1] + 1)
        exponent, r2, k = fits[net]
        mean = np.exp(np.log(values).mean(0))
        ax.fill_between(i, values.min(0), values.max(0), color=COLOURS[net], alpha=.2, lw=0)
        ax.plot(i, mean, MARKERS[net], color=COLOURS[net], label=f"{net}: $\\lambda_i \\sim i^{{-{exponent:.2f}}}$, $R^2$ = {r2:.2f}")
        ax.plot(i[:k], np.exp(np.log(mean[:k]).mean() - exponent * (np.log(i[:k]) - np.log(i[:k]).mean())), color=COLOURS[net], lw=1)
    ax.set(xscale="log", yscale="log", xlabel="rank $i$", ylabel=r"eigenvalue $\lambda_i$ of $J^\top\! J$", title=title)
    ax.set_xticks(i, i)
    ax.minorticks_off()
    ax.legend()
    return figure


def distributions(values, xlabel, title):
    """Histograms on a logarithmic axis: {net: values}."""
    figure, ax = plt.subplots(figsize=(6.5, 3.6))
    everything = np.concatenate([np.asarray(v) for v in values.values()])
    bins = np.geomspace(everything.min(), everything.max(), 41)
    for net, v in values.items():
        ax.hist(v, bins, color=COLOURS[net], alpha=.6, label=f"{net}: median {np.median(v):.3g}", hatch="//" if net == "standard" else None, edgecolor="white")
    ax.set(xscale="log", xlabel=xlabel, ylabel="images", title=title)
    ax.legend()
    return figure


def images(rows, title, width=1.3):
    """A grid of images: {row label: [(image (H, W), text under it), ...]}; each image is scaled to its own range."""
    columns = max(map(len, rows.values()))
    figure, axes = plt.subplots(len(rows), columns, figsize=(width * columns + 1, (width + .25) * len(rows) + .4), squeeze=False)
    for (label, row), line in zip(rows.items(), axes):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for ax in line:
            ax.set(xticks=[], yticks=[])
            sns.despine(ax=ax, left=True, bottom=True)
        for (image, text), ax in zip(row, line):
            ax.imshow(np.asarray(image))
            ax.set_xlabel(text, fontsize="small")
    figure.suptitle(title, x=0, ha="left", fontsize="medium")
    return figure


def phase(table, quantities, title):
    """Heat maps over radius and epoch, one a quantity.

    table       a data frame with the columns eps, epoch and the quantities'.
    quantities  {column: (label, logarithmic colour?)}.
    """
    from matplotlib.colors import LogNorm

    figure, axes = plt.subplots(1, len(quantities), figsize=(4.2 * len(quantities), 3.6))
    for ax, (column, (label, logarithmic)) in zip(axes, quantities.items()):
        grid = table.pivot(index="epoch", columns="eps", values=column).sort_index(ascending=False)
        sns.heatmap(grid, ax=ax, annot=True, fmt=".2g", cmap="viridis", norm=LogNorm() if logarithmic else None,
                    annot_kws={"size": "x-small"}, cbar_kws={"label": label})
        ax.set(xlabel=r"training radius $\varepsilon$ ($\ell_2$)", ylabel="epoch", title=label)
    figure.suptitle(title, x=0, ha="left", fontsize="medium")
    return figure
