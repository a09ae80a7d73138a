"""Figures with one look: the same net has the same colour everywhere, axes have names and units."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = {"standard": "#7f7f7f", "quasi-robust": "#56b4e9", "robust": "#0072b2", "generative": "#e69f00",
           "attack": "#d55e00", "ResNet": "#7f7f7f", "ResNet, no noise": "#b0b000",
           "GradResNet, classification": "#56b4e9", "GradResNet, denoising": "#009e73", "GradResNet, joint": "#0072b2",
           "JEM": "#e69f00", "DnCNN": "#cc79a7", "DRUNet": "#d55e00", "on manifold": "#009e73",
           "off manifold": "#d55e00", "accuracy": "#0072b2",
           "alignment": "#e69f00", "gradient norm": "#0072b2", "randomised smoothing": "#e69f00",
           "smoothness penalty": "#009e73", "ℓ2 adversarial": "#cc79a7", "adversarial": "#0072b2", "PreJEAT": "#56b4e9",
           "JEAT": "#d55e00", "noise": "#009e73", "ResNet, adversarial": "#0072b2", "ResNet, PreJEAT": "#56b4e9"}
# told apart in greyscale, too
MARKERS = {"standard": "s", "quasi-robust": "D", "robust": "o", "generative": "^", "attack": "X",
           "ResNet": "s", "ResNet, no noise": "P", "GradResNet, classification": "D", "GradResNet, denoising": "v",
           "GradResNet, joint": "o", "JEM": "^", "DnCNN": "X", "DRUNet": "p",
           "on manifold": "o", "off manifold": "s", "accuracy": "o", "alignment": "^",
           "gradient norm": "o", "randomised smoothing": "^", "smoothness penalty": "s", "ℓ2 adversarial": "X",
           "adversarial": "o", "PreJEAT": "D", "JEAT": "X", "noise": "v",
           "ResNet, adversarial": "P", "ResNet, PreJEAT": "p"}


def use():
    """Set the common style; called once at the top of a notebook."""
    sns.set_theme(context="notebook", style="ticks", rc={
        "figure.dpi": 80, "savefig.dpi": 80, "savefig.bbox": "tight", "figure.constrained_layout.use": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium", "axes.titlelocation": "left",
        "image.interpolation": "none", "image.cmap": "gray", "legend.frameon": False})


def spectra_plot(spectra, fits, title):
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
        ax.plot(i, mean, MARKERS[net], color=COLOURS[net], label=f"{net}: $\\lambda_i \\sim i^{{-{exponent:.2f}}}$, "
                                                                 f"$R^2$ = {r2:.2f}")
        ax.plot(i[:k], np.exp(np.log(mean[:k]).mean() - exponent * (np.log(i[:k]) - np.log(i[:k]).mean())),
                color=COLOURS[net], lw=1)
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
        ax.hist(v, bins, color=COLOURS[net], alpha=.6, label=f"{net}: median {np.median(v):.3g}",
                hatch="//" if net == "standard" else None, edgecolor="white")
    ax.set(xscale="log", xlabel=xlabel, ylabel="images", title=title)
    ax.legend()
    return figure


def histograms(panels, title, xlabel):
    """Histograms of natural and attacked images, a panel each: {panel's title: (net, natural (N,), attacked (M,),
    thresholds)}."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.4), squeeze=False)
    for ax, (name, (net, natural, attacked, thresholds)) in zip(axes[0], panels.items()):
        natural, attacked = _array(natural), _array(attacked)
        bins = np.linspace(min(natural.min(), attacked.min()), max(natural.max(), attacked.max()), 41)
        ax.hist(natural, bins, color=COLOURS[net], alpha=.7, label="natural", edgecolor="white", lw=.3)
        ax.hist(attacked, bins, color=COLOURS["attack"], alpha=.6, label="attacked", hatch="///", edgecolor="white",
                lw=.3)
        for threshold in thresholds:
            ax.axvline(threshold, color="black", ls="--", lw=1, label="threshold" if threshold == thresholds[0]
                       else None)
        ax.set(xlabel=xlabel, ylabel="images", title=name)
        ax.legend()
    figure.suptitle(title, x=0, ha="left", fontsize="medium")
    return figure


def curves(panels, title):
    """Lines in panels side by side.

    panels  {panel's title: {"xlabel", "ylabel", "lines": {label: (x, y) or (x, y, spread or (low, high))}}}, and
            optionally "texts": {label: [a text above each point]}, "levels": {label: y}, "marks": {label: x}, "ticks":
            [texts at x = 0, 1, ...],
            "categories": [the same where x has no order: points alone], "points": whether points are marked, "scatter":
            points alone,
            "log": whether both axes are logarithmic, or "x" alone, "crosses": {label: (x, y)} of points without lines.
            A label that begins with a name of COLOURS has its colour and marker.
    """
    labels = {name: [label for key in ("lines", "crosses", "levels", "marks") for label in panel.get(key, ())]
              for name, panel in panels.items()}
    columns = {name: 1 if len(panels) > 1 and max(map(len, texts)) > 24 else 2 for name, texts in labels.items()}
    tallest = max(len(texts) / columns[name] for name, texts in labels.items())
    figure, axes = plt.subplots(1, len(panels), figsize=(4.8 * len(panels), 4.4 + .2 * max(0, tallest - 4)),
                                squeeze=False)
    others = sns.color_palette("colorblind")[1:]
    for ax, (name, panel) in zip(axes[0], panels.items()):
        seen = []   # names of COLOURS: a second line of one is dashed
        for i, (label, (x, y, *spread)) in enumerate(panel["lines"].items()):
            known = max((net for net in COLOURS if label.startswith(net)), key=len, default=None)
            x, y = _array(x), _array(y)
            colour = COLOURS.get(known) or others[i % len(others)]
            marker = MARKERS.get(known, "o^sDvPX"[i % 7]) if panel.get("points", True) else None
            solid = "categories" not in panel and not panel.get("scatter")
            style = ("-", "--", "-.", ":")[(seen.count(known) if known else i) % 4] if solid else "none"
            seen.append(known)
            ax.plot(x, y, marker=marker, color=colour, label=label, ls=style)
            for s in spread:
                low, high = map(_array, s) if isinstance(s, tuple) else (y - _array(s), y + _array(s))
                ax.fill_between(x, low, high, color=colour, alpha=.15, lw=0)
            for px, py, text in zip(x, y, panel.get("texts", {}).get(label, ())):
                ax.annotate(text, (px, py), (0, 5), textcoords="offset points", ha="center", fontsize="x-small",
                            color=colour)
        for (label, (x, y)), marker in zip(panel.get("crosses", {}).items(), "x+"):
            ax.plot(_array(x), _array(y), marker, color="black", label=label)
        for draw, key, style in ((ax.axhline, "levels", "--"), (ax.axvline, "marks", ":")):
            for i, (label, at) in enumerate(panel.get(key, {}).items()):
                draw(at, color=("black", "#999999")[i % 2], ls=style, lw=1, label=label)
        ax.set(xlabel=panel["xlabel"], ylabel=panel["ylabel"], title=name)
        if "ticks" in panel:
            ax.set_xticks(range(len(panel["ticks"])), panel["ticks"])
        if "categories" in panel:
            ax.set_xticks(range(len(panel["categories"])), panel["categories"], rotation=40, ha="right")
            ax.grid(axis="x", lw=.5)
        if panel.get("log"):
            for axis in (ax.xaxis, ax.yaxis)[:1 if panel["log"] == "x" else 2]:
                getattr(ax, f"set_{axis.axis_name}scale")("log")
                low, high = axis.get_view_interval()
                axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())
        # below: on no line
        ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(.5, -.5 if "categories" in panel else -.18),
                  ncols=columns[name])
    figure.suptitle(title, x=0, ha="left", fontsize="medium")
    return figure


def courses(panels, title):
    """Trajectories of the predicted class, coloured by its confidence: {panel's title: (classes (N, T), confidences (N,
    T))}."""
    from matplotlib.collections import LineCollection

    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.8), squeeze=False)
    for ax, (name, (classes, confidences)) in zip(axes[0], panels.items()):
        classes, confidences = _array(classes), _array(confidences)
        y = classes + np.linspace(-.35, .35, len(classes))[:, None]   # side by side within a class
        points = np.stack([np.broadcast_to(np.arange(y.shape[1]), y.shape), y], -1)
        lines = LineCollection(np.stack([points[:, :-1], points[:, 1:]], 2).reshape(-1, 2, 2),
                               array=confidences[:, 1:].ravel(), cmap="viridis", lw=.8)
        lines.set_clim(0, 1)
        ax.add_collection(lines)
        ax.autoscale()
        ax.set(xlabel="iteration", ylabel="predicted class", title=name, yticks=range(classes.max() + 1))
    figure.colorbar(lines, ax=axes[0, -1], label="confidence")
    figure.suptitle(title, x=0, ha="left", fontsize="medium")
    return figure


def maps(panels, title):
    """Points in the plane, a panel each: {panel's title: (points (N, 2), real? (N,), classes (N,) or None)}, coloured
    by origin or by class."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.8 * len(panels), 3.9), squeeze=False)
    for ax, (name, (points, real, classes)) in zip(axes[0], panels.items()):
        # as in the paper: red and blue
        for origin, marker, colour in ((real, "o", COLOURS["attack"]), (~real, "^", COLOURS["robust"])):
            colours = {"color": colour} if classes is None else {"c": classes[origin], "cmap": "tab10", "vmin": 0,
                                                                 "vmax": 9}
            ax.scatter(*points[origin].T, s=9, marker=marker, lw=0, alpha=.7,
                       label="real" if marker == "o" else "generated", **colours)
        ax.set(title=name, xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
        ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(.5, -.08), ncols=2)
    figure.suptitle(title, x=0, ha="left", fontsize="medium")
    return figure


def matrices(tables, title, xlabel, ylabel, size=(4.6, 3.8)):
    """Annotated heat maps side by side: {title: (data frame, colour map's centre or None, format or a frame of texts)};
    rows and columns are named."""
    figure, axes = plt.subplots(1, len(tables), figsize=(size[0] * len(tables), size[1]), squeeze=False)
    for ax, (name, (frame, centre, form)) in zip(axes[0], tables.items()):
        sns.heatmap(frame, ax=ax, center=centre, cmap="viridis" if centre is None else "vlag",
                    annot_kws={"size": "small"},
                    **({"annot": True, "fmt": form} if isinstance(form, str) else {"annot": form, "fmt": ""}))
        ax.set(title=name, xlabel=xlabel, ylabel=ylabel)
        ax.set_xticks(ax.get_xticks(), ax.get_xticklabels(), rotation=30, ha="right")
        ax.tick_params(axis="y", rotation=0)
    figure.suptitle(title, x=0, ha="left", fontsize="medium")
    return figure


def _array(values):
    """A NumPy array from a tensor on any device, an array or a list."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def picture(image):
    """An image (C, H, W) as `images` takes it: (H, W) of one channel, (H, W, 3) of three."""
    return image[0] if len(image) == 1 else image.movedim(0, -1)


def image_rows(rows, title, width=1.3):
    """A grid of images: {row label: [(image, text under it), ...]}; (H, W) scaled to its own range, or (H, W, 3) in [0,
    1]."""
    columns = max(map(len, rows.values()))
    height = sum(width + (.25 if any(text for _, text in row) else .08) for row in rows.values())
    figure, axes = plt.subplots(len(rows), columns, figsize=(width * columns + 1, height + .4), squeeze=False)
    for (label, row), line in zip(rows.items(), axes):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for ax in line:
            ax.set(xticks=[], yticks=[])
            sns.despine(ax=ax, left=True, bottom=True)
        for (image, text), ax in zip(row, line):
            ax.imshow(_array(image))
            ax.set_xlabel(text, fontsize="small")
    figure.suptitle(title, x=0, ha="left", fontsize="medium")
    return figure


def contours(rows, offsets, title, xlabel):
    """Filled contours of values over a plane, a star in the middle: {row label: {panel's title: (P, P)}}, one scale of
    colours a panel.

    offsets   (P,) of the grid along either axis, in the units that `xlabel` states.
    """
    columns = max(map(len, rows.values()))
    figure, axes = plt.subplots(len(rows), columns, figsize=(3.3 * columns, 2.9 * len(rows)), squeeze=False)
    for (label, row), line in zip(rows.items(), axes):
        for (name, values), ax in zip(row.items(), line):
            filled = ax.contourf(_array(offsets), _array(offsets), _array(values).T, levels=12, cmap="viridis")
            ax.plot(0, 0, "*", color="white", markeredgecolor="black", ms=12)
            ax.set(title=name, aspect="equal", xlabel=xlabel, ylabel=label if ax is line[0] else "")
            figure.colorbar(filled, ax=ax, shrink=.8)
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
