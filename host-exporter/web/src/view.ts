// What a page shows, held whole in the address, so that a link gives the same view.

import type { Side } from "./api";
import { LONG_RANGES, RANGE_MAX, RANGES } from "./past";

/** Pages by the first part of the address. */
export const PAGES = ["applications", "application", "map", "calls", "traces", "trace", "operator"] as const;
export type Page = (typeof PAGES)[number];

/** Calls of an application in one cell of a heat map of its durations. */
export interface CellOfCalls {
  side: Side;
  /** When they were received: from this millisecond on, and before that one. */
  from: number;
  until: number;
  /** How long they took, nanoseconds. */
  least: number;
  most: number;
}

export interface View {
  page: Page;
  /** Of the application's page. */
  tenant: string | null;
  service: string | null;
  /** How far back, seconds. */
  range: number;
  /** When the range ends, seconds since 1970; now where none. */
  until: number | null;
  /** Of this exporter alone, from its own last hour. */
  own: boolean;
  /** What names must contain. */
  filter: string;
  /** Column of the first table, `-` before it for descending. */
  sort: string | null;
  /** Part of the application's page. */
  part: string | null;
  /** Only failed calls. */
  failed: boolean;
  /** Traces in which this route, table or topic was served or called. */
  route: string | null;
  /** Of a trace. */
  id: string | null;
  /** Calls that took at least as many milliseconds. */
  slower: number | null;
  /** Traces with a call of a cell of the application's heat map. */
  cell: CellOfCalls | null;
}

export const FILTER_MAX = 200;

export const START: View = {
  page: "applications",
  tenant: null,
  service: null,
  range: 900,
  until: null,
  own: false,
  filter: "",
  sort: null,
  part: null,
  failed: false,
  route: null,
  id: null,
  slower: null,
  cell: null,
};

function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

function cellOf(text: string | null): CellOfCalls | null {
  const [side, ...rest] = (text ?? "").split("-");
  const [from = NaN, until = NaN, least = NaN, most = NaN] = rest.map((part) => (/^\d+$/.test(part) ? Number(part) : NaN));
  const whole = rest.length === 4 && [from, until, least, most].every(Number.isSafeInteger);
  return whole && (side === "server" || side === "client") ? { side, from, until, least, most } : null;
}

/** A range that is offered; of one in the past any, in whole steps of the smallest field. */
function rangeOf(text: string | null, until: number | null): number {
  const range = Number(text);
  if (until !== null && Number.isSafeInteger(range) && range >= 60 && range <= RANGE_MAX) return range;
  return [...RANGES, ...LONG_RANGES].find((known) => known === range) ?? START.range;
}

/** Reads an address's fragment; what cannot be used is as at the start. */
export function parse(fragment: string): View {
  const text = fragment.replace(/^#\/?/, "");
  const at = text.indexOf("?");
  const [path, query] = at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
  const [first = "", tenant, service] = path.split("/");
  const page = PAGES.find((page) => page === first) ?? START.page;
  const parameters = new URLSearchParams(query);
  const end = Number(parameters.get("until"));
  const until = Number.isSafeInteger(end) && end > 0 && end < 1e11 ? end : null;
  const slower = Number(parameters.get("slower"));
  const view: View = {
    ...START,
    page,
    tenant: tenant ? decoded(tenant) : null,
    service: service ? decoded(service) : null,
    range: rangeOf(parameters.get("range"), until),
    until,
    own: parameters.get("own") === "true",
    filter: (parameters.get("filter") ?? "").slice(0, FILTER_MAX),
    sort: parameters.get("sort"),
    part: parameters.get("part"),
    failed: parameters.get("failed") === "true",
    route: parameters.get("route"),
    id: parameters.get("id"),
    slower: Number.isFinite(slower) && slower > 0 ? slower : null,
    cell: cellOf(parameters.get("cell")),
  };
  const whole = page === "application" ? view.tenant !== null && view.service !== null : page !== "trace" || view.id !== null;
  return whole ? view : { ...view, page: START.page, tenant: null, service: null };
}

/** The fragment of a view; what is as at the start is left out. */
export function format(view: View): string {
  const parts: string[] = [view.page];
  if (view.tenant !== null) parts.push(encodeURIComponent(view.tenant));
  if (view.tenant !== null && view.service !== null) parts.push(encodeURIComponent(view.service));
  const parameters = new URLSearchParams();
  if (view.range !== START.range) parameters.set("range", String(view.range));
  if (view.until !== null) parameters.set("until", String(view.until));
  if (view.own) parameters.set("own", "true");
  if (view.filter !== "") parameters.set("filter", view.filter);
  if (view.sort !== null) parameters.set("sort", view.sort);
  if (view.part !== null) parameters.set("part", view.part);
  if (view.failed) parameters.set("failed", "true");
  if (view.route !== null) parameters.set("route", view.route);
  if (view.id !== null) parameters.set("id", view.id);
  if (view.slower !== null) parameters.set("slower", String(view.slower));
  if (view.cell !== null) {
    const { side, from, until, least, most } = view.cell;
    parameters.set("cell", [side, from, until, least, most].join("-"));
  }
  const query = parameters.toString();
  return `#/${parts.join("/")}${query === "" ? "" : `?${query}`}`;
}

/** The view of another page: the time stays, the rest begins anew. */
export function to({ range, until, own }: View, page: Page, more: Partial<View> = {}): View {
  return { ...START, range, until, own, page, ...more };
}
