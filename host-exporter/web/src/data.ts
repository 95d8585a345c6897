// Loads what a page shows, again with each tick; the last answer stays on the page until there is a newer one.

import { useEffect, useRef, useState } from "preact/hooks";
import { get, Refused } from "./api";
import { useShared } from "./context";
import { report } from "./answers";

export interface Loaded<T> {
  data: T | null;
  /** Why the newest request failed; the data is of an earlier one. */
  error: Error | null;
}

interface Kept<T> extends Loaded<T> {
  url: string;
}

/** Whether an answer says that what was shown before must not be shown any more. */
function takesAway(reason: Error): boolean {
  return reason instanceof Refused && reason.status < 500;
}

/** Requests a path, again every so many ticks. */
export function useData<T>(url: string, ticks = 1): Loaded<T> {
  const shared = useShared();
  const tick = Number.isFinite(ticks) ? Math.floor(shared.tick / ticks) : 0;
  const [kept, keep] = useState<Kept<T>>({ url, data: null, error: null });
  // Of which path there is an answer on the page.
  const shown = useRef<string | null>(null);
  useEffect(() => {
    const stop = new AbortController();
    get<T>(url, stop.signal).then(
      (data) => {
        keep({ url, data, error: null });
        shown.current = url;
        report(url, true);
      },
      (error: unknown) => {
        if (stop.signal.aborted) return;
        const reason = error instanceof Error ? error : new Error(String(error));
        keep((last) => ({ url, data: last.url === url && !takesAway(reason) ? last.data : null, error: reason }));
        if (takesAway(reason)) shown.current = null;
        report(url, shown.current !== url);
      },
    );
    return () => {
      stop.abort();
    };
  }, [url, tick]);
  useEffect(
    () => () => {
      report(url, true);
    },
    [url],
  );
  return kept.url === url ? kept : { data: null, error: null };
}
