// When a page requests a path again.

/** The newest request for a path. */
export interface Requested {
  url: string;
  /** Of the page, when it began. */
  tick: number;
  state: "open" | "answered" | "failed";
}

/** Ticks after which a request that is still open counts as not answered: a minute. */
const OVERDUE_TICKS = 4;

/**
 * Whether a path is requested at this tick: `ticks` after an answer (never again where that is Infinity), at the next one after a failure,
 * and not while a request for it is open, which a server that needs longer than a tick would otherwise never answer.
 */
export function isDue(last: Requested | null, url: string, tick: number, ticks: number): boolean {
  if (last?.url !== url) return true;
  if (last.state === "open") return false;
  return tick - last.tick >= (last.state === "failed" ? 1 : ticks);
}

/** Whether a request has been open for so long that what is shown counts as old. */
export function isOverdue(last: Requested | null, tick: number): boolean {
  return last?.state === "open" && tick - last.tick >= OVERDUE_TICKS;
}
