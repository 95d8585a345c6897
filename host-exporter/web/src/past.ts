// Which time a page shows: the last minutes or hours, or a time in the past.

import type { Viewer } from "./api";
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

/** How a view's time is requested of the history. */
export interface Asked {
  query: { range_seconds: number; step_seconds: number; until_unix_ms: number | null; own: true | null };
  /** Ticks of the page from one request to the next: a quarter of a point, a minute at most. What is over is requested once. */
  ticks: number;
}

/** Of a view with a time that there is not, the exporter's own last hour. */
export function ask(view: View, viewer: Viewer, most = POINTS_MAX): Asked {
  const hasServer = viewer.range_seconds_max > OWN_RANGE;
  const own = view.own || !hasServer;
  const range = Math.min(view.range, own ? OWN_RANGE : viewer.range_seconds_max);
  const step = stepOf(range, viewer.step_seconds, most);
  const until = own ? null : view.until;
  return {
    query: {
      // Whole points.
      range_seconds: Math.ceil(range / step) * step,
      step_seconds: step,
      until_unix_ms: until === null ? null : until * 1000,
      own: hasServer && own ? true : null,
    },
    ticks: until === null ? Math.max(1, Math.floor(Math.min(step / 4, 60) / viewer.step_seconds)) : Infinity,
  };
}

/** Whether a view is of a time that the exporter itself has not. */
export function isPast(view: View): boolean {
  return !view.own && (view.until !== null || view.range > OWN_RANGE);
}

/** A time in a field of a form, which has the browser's time zone. */
export function fieldOf(unixSeconds: number): string {
  const date = new Date(unixSeconds * 1000);
  const two = (part: number): string => String(part).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}T${two(date.getHours())}:${two(date.getMinutes())}`;
}

export type Wrong = "noTime" | "notBefore" | "tooLong" | "toCome";

/** The range between two fields of a form, in whole steps. */
export function between(from: string, to: string, step: number, now: number): { range: number; until: number } | Wrong {
  const [begin, end] = [from, to].map((text) => Date.parse(text) / 1000);
  if (begin === undefined || end === undefined || Number.isNaN(begin) || Number.isNaN(end)) return "noTime";
  if (end <= begin) return "notBefore";
  if (begin >= now) return "toCome";
  const until = Math.ceil(Math.min(end, now) / step) * step;
  const range = Math.max(4 * step, Math.ceil((until - begin) / step) * step);
  return range > RANGE_MAX ? "tooLong" : { range, until };
}
