// What the charts that uPlot draws have in common.

import type UPlot from "uplot";
import { onAxis } from "../format";

/** Width of a character at an axis with its part of the room between two texts, CSS pixels. */
const CHARACTER = 9;

/** Least distance of two texts. */
const SPACE_MIN = 60;

/** What an axis of time has: room for what is written at it. */
export function timeAxis(rangeSeconds: number): UPlot.Axis {
  return {
    values: (_, splits, __, ___, apart) => splits.map((at) => onAxis(at * 1000, rangeSeconds, apart)),
    // One of two minutes is not midnight, whose text is shorter.
    space: (_, __, begin) => Math.max(SPACE_MIN, ...[0, 60].map((later) => onAxis((begin + later) * 1000, rangeSeconds, 60).length * CHARACTER)),
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
