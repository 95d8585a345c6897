// Makes what tables show of what the routes answer.

import type { Application, Applications, Burn, Hour, Line, Point, Side } from "./api";
import { ratio } from "./format";

/** What the objectives of an application come to, the worst first. */
export type Verdict = "burning" | "missed" | "met" | "none";

export const VERDICTS: readonly Verdict[] = ["burning", "missed", "met", "none"];

export function verdict(objectives: readonly Burn[]): Verdict {
  const judged = objectives.filter((burn) => burn.missed_1h !== null);
  if (judged.some((burn) => burn.burns_fast)) return "burning";
  if (judged.some((burn) => (burn.missed_1h ?? 0) > 1 - burn.share)) return "missed";
  return judged.length > 0 ? "met" : "none";
}

export interface ApplicationRow extends Application {
  id: string;
  /** Whether the numbers are of what it served or, as it served nothing, of what it called. */
  side: Side;
  protocols: string[];
  total: Point;
  points: Point[];
  rate: number;
  errorShare: number | null;
  objectives: Burn[];
  verdict: Verdict;
}

export function key(application: Application): string {
  return `${application.tenant}\u0000${application.service_name}`;
}

/** Seconds that an answer covers: its last point can reach beyond what was recorded. */
export function covered(hour: Hour): number {
  const beyond = Math.max(0, hour.end_unix_ms - hour.recorded_unix_ms) / 1000;
  return Math.max(1, hour.range_seconds - beyond);
}

/** A row for each application that served or called something, or is known. */
export function applicationRows(hour: Hour, listing: Applications | null): ApplicationRow[] {
  const objectives = new Map((listing?.applications ?? []).map((row) => [key(row), row.objectives]));
  const lines = new Map<string, Line>();
  for (const line of hour.lines) {
    const known = lines.get(key(line));
    const better = known === undefined || (known.side === "client" && line.total.requests > 0 && line.side === "server");
    if (better || (line.side === "server" && known.total.requests === 0)) lines.set(key(line), line);
  }
  const seconds = covered(hour);
  return [...lines.entries()].map(([id, line]) => {
    const own = objectives.get(id) ?? [];
    return {
      id,
      tenant: line.tenant,
      service_name: line.service_name,
      side: line.side,
      protocols: line.protocols,
      total: line.total,
      points: line.points,
      rate: line.total.requests / seconds,
      errorShare: ratio(line.total.errors, line.total.requests),
      objectives: own,
      verdict: verdict(own),
    };
  });
}

/** Whether a text has all words of a filter, whatever their case. */
export function matches(filter: string, ...texts: readonly string[]): boolean {
  const text = texts.join(" ").toLowerCase();
  return filter
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}

/** The time of each point of an answer, and what a line has there; nothing where it had no requests. */
export function aligned<T>(hour: Hour, points: readonly Point[], value: (point: Point) => T): (T | null)[] {
  const byEnd = new Map(points.map((point) => [point.end_unix_ms, point]));
  return ends(hour).map((end) => {
    const point = byEnd.get(end);
    return point === undefined ? null : value(point);
  });
}

/** The ends of all points of an answer, oldest first. */
export function ends(hour: Hour): number[] {
  const step = hour.step_seconds * 1000;
  const count = Math.round(hour.range_seconds / hour.step_seconds);
  return Array.from({ length: count }, (_, at) => hour.end_unix_ms - (count - 1 - at) * step);
}

/** Compares for sorting: numbers and texts by size, what is absent last in either direction. */
export function compare(a: string | number | null, b: string | number | null, descending: boolean): number {
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
  const order = typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b)) : a - b;
  return descending ? -order : order;
}
