// What the charts that uPlot draws have in common.

import type UPlot from "uplot";
import { clock, onAxis } from "../format";

/** What an axis of time has: room for what is written at it. */
export function timeAxis(rangeSeconds: number): UPlot.Axis {
  return {
    // Less than a minute apart they would all be the same.
    values: (_, splits, __, ___, apart) => splits.map((at) => (apart < 60 ? clock(at * 1000) : onAxis(at * 1000, rangeSeconds))),
    space: rangeSeconds > 86_400 ? 96 : 60,
    size: 28,
  };
}

/** A colour of the style sheet, of the theme that is shown. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim() || "gray";
}

/** Keeps a plot as wide as its place, until the returned function takes it away. */
export function keepWide(plot: UPlot, place: HTMLElement, height: number): () => void {
  const observer = new ResizeObserver(() => {
    if (place.clientWidth > 0) plot.setSize({ width: place.clientWidth, height });
  });
  observer.observe(place);
  return () => {
    observer.disconnect();
    plot.destroy();
  };
}
