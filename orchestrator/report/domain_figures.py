"""Figures of experts specialised by domain, as PNG bytes: usage, overlap, masks over time."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.figures import LAYERS, canvas, png, ticks
from workers.diagnostics.tables import weighted_jaccard
from workers.edits import RefreshMask


def domain_usage(lane: str, mask: RefreshMask) -> bytes:
    """Heat map per layer: share of a domain's tokens (row) that chose each expert (column).

    A dot marks experts that the domain trains.
    """
    layers = list(mask.masks)[:LAYERS]
    height = 1.2 + len(layers) * (0.6 + 0.28 * len(mask.domains))
    figure, panels = canvas(7.2, min(11.0, height), rows=len(layers))
    for axes, layer in zip(panels, layers, strict=True):
        rows = mask.masks[layer]
        image = axes.imshow(
            mask.usage.get(layer, rows), vmin=0, vmax=1, cmap="magma", aspect="auto"
        )
        marks = [(e, d) for d, row in enumerate(rows) for e, on in enumerate(row) if on]
        axes.plot([e for e, _ in marks], [d for _, d in marks], ".", color="tab:cyan", ms=5)
        ticks(axes.set_yticks, mask.domains)
        ticks(axes.set_xticks, [str(e) for e in range(max(map(len, rows)))])
        axes.set_title(layer, size=8, loc="left")
        figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    panels[-1].set_xlabel("expert (dot: the domain trains it)")
    figure.suptitle(f"{lane}: use of experts by domain, mask version {mask.version}", size=10)
    return png(figure)


def domain_overlap(lane: str, mask: RefreshMask) -> bytes:
    """Heat map per layer: weighted overlap of the experts that two domains use."""
    layers = [layer for layer in mask.masks if layer in mask.usage][:LAYERS] or [""]
    size = 1.6 + 0.3 * len(mask.domains)
    figure, panels = canvas(size + 2.0, min(11.0, len(layers) * size + 0.4), rows=len(layers))
    for axes, layer in zip(panels, layers, strict=True):
        rows = mask.usage.get(layer, [[0.0]] * len(mask.domains))
        grid = [[weighted_jaccard(one, other) for other in rows] for one in rows]
        image = axes.imshow(grid, vmin=0, vmax=1, cmap="viridis")
        ticks(axes.set_yticks, mask.domains)
        ticks(axes.set_xticks, mask.domains, rotation=30, ha="right")
        axes.set_title(layer, size=8, loc="left")
        figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    figure.suptitle(f"{lane}: overlap of domains", size=10)
    return png(figure)


def mask_versions(lane: str, masks: Sequence[RefreshMask]) -> bytes:
    """Per layer, over versions: share of experts that each domain trains."""
    layers = list(masks[0].masks)[:LAYERS]
    figure, panels = canvas(7.2, min(11.0, 1.2 + 1.9 * len(layers)), rows=len(layers))
    for axes, layer in zip(panels, layers, strict=True):
        for domain in masks[-1].domains:
            points = [
                (mask.version, sum(row) / len(row))
                for mask in masks
                for name, row in zip(mask.domains, mask.masks[layer], strict=True)
                if name == domain
            ]
            axes.plot([v for v, _ in points], [s for _, s in points], ".-", lw=1, label=domain)
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel("share trained", size=8)
        axes.set_title(layer, size=8, loc="left")
        axes.locator_params(axis="x", integer=True)
    panels[0].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    panels[-1].set_xlabel("mask version")
    figure.suptitle(f"{lane}: experts that each domain trains", size=10)
    return png(figure)
