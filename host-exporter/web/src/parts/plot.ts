// What the charts that uPlot draws have in common.

import type UPlot from "uplot";

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
