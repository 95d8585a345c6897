// Which time a page shows: the last minutes or hours, or a time in the past.

import type { Viewer } from "./api";
import { two } from "./format";
import type { View } from "./view";

/** Ranges that are offered, seconds. */
export const RANGES = [300, 900, 1800, 3600] as const;

/** Those that are offered where a server has more than the exporter's own last hour. */
export const LONG_RANGES = [10_800, 21_600, 86_400, 604_800] as const;

/** What the exporter itself has, seconds. */
export const OWN_RANGE = 3600;

/** The longest range that a link can have, seconds: that of a server. */
export const RANGE_MAX = 366 * 86_400;

/** Lengths of points, seconds: those that people count in. */
const STEPS = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 345_600];

/** Points of a range at most. */
const POINTS_MAX = 100;

/** Those in the small lines of a table. */
export const SPARK_POINTS_MAX = 48;

/** What one point covers, a multiple of the exporter's step. */
export function stepOf(range: number, step: number, most = POINTS_MAX): number {
  return STEPS.find((seconds) => seconds % step === 0 && range / seconds <= most) ?? Math.ceil(range / most / step) * step;
}

/** Which time is shown of the one in a link. */
export type Time = Pick<View, "range" | "until" | "own">;

/** Whether a server has more than the exporter's own last hour. */
export function hasServer(viewer: Viewer): boolean {
  return viewer.range_seconds_max > OWN_RANGE;
}

/** Which time is shown of the one in a link: where the exporter is alone, its own last hour at most. */
export function timeOf(view: View, viewer: Viewer): Time {
  if (hasServer(viewer) && !view.own) return { range: Math.min(view.range, viewer.range_seconds_max), until: view.until, own: false };
  return { range: view.until === null ? Math.min(view.range, OWN_RANGE) : OWN_RANGE, until: null, own: true };
}

/** Whether it is one that the exporter itself has not. */
export function isPast({ range, until, own }: Time): boolean {
  return !own && (until !== null || range > OWN_RANGE);
}

/** The offered range in which one of any length is: a link that ends now has no other. */
export function offeredRange(range: number): number {
  return [...RANGES, ...LONG_RANGES].find((known) => known >= range) ?? LONG_RANGES[LONG_RANGES.length - 1] ?? OWN_RANGE;
}

/** The same of this exporter alone, which needs no server. */
export function ownHour(view: View): View {
  return { ...view, own: true, until: null, range: Math.min(offeredRange(view.range), OWN_RANGE) };
}

/** The same until now. */
export function untilNow(view: View): View {
  return { ...view, until: null, range: offeredRange(view.range) };
}

/** The time of the same length behind one in the past, until now at most; `now` in seconds since 1970. */
export function later(view: View, now: number): View {
  const end = (view.until ?? now) + view.range;
  return end >= now ? untilNow(view) : { ...view, until: end };
}

/** How a view's time is requested of the history. */
export interface Asked {
  query: { range_seconds: number; step_seconds: number; until_unix_ms: number | null; own: true | null };
  /** Ticks of the page from one request to the next: a quarter of a point, a minute at most. What is over is answered once. */
  ticks: number;
}

/** How the history is requested for a view, in `most` points at most. */
export function ask(view: View, viewer: Viewer, most = POINTS_MAX): Asked {
  const { range, until, own } = timeOf(view, viewer);
  const step = stepOf(range, viewer.step_seconds, most);
  const points = Math.ceil(range / step);
  // Whole points, of which the first one would begin too early in the longest range.
  const whole = points * step > viewer.range_seconds_max ? Math.floor(viewer.range_seconds_max / step) : points;
  return {
    query: {
      range_seconds: whole * step,
      step_seconds: step,
      until_unix_ms: until === null ? null : until * 1000,
      own: own && hasServer(viewer) ? true : null,
    },
    ticks: until === null ? Math.max(1, Math.floor(Math.min(step / 4, 60) / viewer.step_seconds)) : Infinity,
  };
}

/** A time in a field of a form, which has the browser's time zone. */
export function fieldOf(unixSeconds: number): string {
  const date = new Date(unixSeconds * 1000);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}T${two(date.getHours())}:${two(date.getMinutes())}`;
}

export type Wrong = "noTime" | "notBefore" | "tooLong" | "inFuture";

/** The range between two fields of a form, in whole steps. */
export function between(from: string, to: string, step: number, now: number): { range: number; until: number } | Wrong {
  const [begin, end] = [from, to].map((text) => Date.parse(text) / 1000);
  if (begin === undefined || end === undefined || Number.isNaN(begin) || Number.isNaN(end)) return "noTime";
  if (end <= begin) return "notBefore";
  if (begin >= now) return "inFuture";
  const until = Math.ceil(Math.min(end, now) / step) * step;
  const range = Math.max(4 * step, Math.ceil((until - begin) / step) * step);
  return range > RANGE_MAX ? "tooLong" : { range, until };
}
