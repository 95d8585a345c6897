// Numbers as people read them, with their units. What was not observed is a dash, never zero.

export const ABSENT = "–";

function digits(value: number): string {
  const size = Math.abs(value);
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1).replace(/\.0$/, "");
  return value.toFixed(2).replace(/\.?0+$/, "");
}

function scaled(value: number, units: readonly (readonly [number, string])[]): string {
  const [size, unit] = units.find(([size]) => Math.abs(value) >= size) ?? units[units.length - 1] ?? [1, ""];
  return `${digits(value / size)}${unit}`;
}

export function count(value: number | null): string {
  if (value === null) return ABSENT;
  if (Math.abs(value) < 10_000) return String(value);
  return scaled(value, [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ]);
}

export function rate(perSecond: number | null): string {
  if (perSecond === null) return ABSENT;
  if (perSecond > 0 && perSecond < 0.01) return "<0.01/s";
  return `${scaled(perSecond, [
    [1e6, "M"],
    [1e3, "k"],
    [1, ""],
  ])}/s`;
}

export function seconds(value: number | null): string {
  if (value === null) return ABSENT;
  return scaled(value, [
    [60, " min"],
    [1, " s"],
    [1e-3, " ms"],
    [1e-6, " µs"],
  ]);
}

export function bytes(value: number | null): string {
  if (value === null) return ABSENT;
  return scaled(value, [
    [2 ** 30, " GiB"],
    [2 ** 20, " MiB"],
    [2 ** 10, " KiB"],
    [1, " B"],
  ]);
}

/** CPU time in a second, as a number of CPUs. */
export function cores(value: number | null): string {
  if (value === null) return ABSENT;
  return value > 0 && value < 0.005 ? "<0.01" : digits(Math.round(value * 100) / 100);
}

/** A share of one as percent. A part that is not all never shows as 100 %, one that is not nothing never as 0 %. */
export function share(value: number | null): string {
  if (value === null) return ABSENT;
  const percent = value * 100;
  if (percent > 0 && percent < 0.01) return "<0.01 %";
  if (percent < 100 && percent > 99.99) return ">99.99 %";
  return `${digits(percent)} %`;
}

/** `part` of `whole`; nothing of nothing is unknown. */
export function ratio(part: number, whole: number): number | null {
  return whole > 0 ? part / whole : null;
}

/** A part of a date or a time, in two digits. */
export function two(part: number): string {
  return String(part).padStart(2, "0");
}

/** Month and day, behind the year where it is not this one. */
function day(date: Date, now: number): string {
  const year = date.getFullYear();
  return `${year === new Date(now).getFullYear() ? "" : `${year}-`}${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

function timeOfDay(date: Date): string {
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
}

/** Hours, minutes and seconds; of another day than today with the day before them. */
export function clock(unixMs: number, now: number = Date.now()): string {
  const date = new Date(unixMs);
  const time = timeOfDay(date);
  return date.toDateString() === new Date(now).toDateString() ? time : `${day(date, now)} ${time}`;
}

/**
 * A time on the axis of a range whose marks are so many seconds apart: with the day where the range has several, in place of the hour at
 * midnight; with seconds where marks are less than a minute apart, which would otherwise all be the same.
 */
export function onAxis(unixMs: number, rangeSeconds: number, apart: number, now: number = Date.now()): string {
  const date = new Date(unixMs);
  if (apart < 60) return timeOfDay(date);
  const time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (rangeSeconds <= 86_400) return time;
  return time === "00:00" || rangeSeconds > 7 * 86_400 ? day(date, now) : `${day(date, now)} ${time}`;
}

/** How long a range is, in the largest unit that it is whole numbers of. */
export function span(rangeSeconds: number): { number: number; unit: "days" | "hours" | "minutes" } {
  if (rangeSeconds % 86_400 === 0 && rangeSeconds > 86_400) return { number: rangeSeconds / 86_400, unit: "days" };
  if (rangeSeconds % 3600 === 0) return { number: rangeSeconds / 3600, unit: "hours" };
  return { number: Math.round(rangeSeconds / 60), unit: "minutes" };
}
