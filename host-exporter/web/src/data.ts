// Loads what a page shows, again with each tick; the last answer stays on the page until there is a newer one.

import { useEffect, useRef, useState } from "preact/hooks";
import { get, Refused } from "./api";
import { useShared } from "./context";
import { report } from "./answers";
import { isDue, isOverdue, type Requested } from "./requests";

export interface Loaded<T> {
  data: T | null;
  /** Why the newest request failed; the data is of an earlier one. */
  error: Error | null;
}

interface Open extends Requested {
  /** Ends it; its answer is not wanted any more. */
  stop: AbortController;
}

interface Kept<T> extends Loaded<T> {
  url: string;
}

/** Whether an answer says that what was shown before must not be shown any more. */
function takesAway(reason: Error): boolean {
  return reason instanceof Refused && reason.status < 500;
}

/** Requests a path, again every so many ticks; after a failure at the next one, whatever their number. */
export function useData<T>(url: string, ticks = 1): Loaded<T> {
  const { tick } = useShared();
  const [kept, keep] = useState<Kept<T>>({ url, data: null, error: null });
  // Of which path there is an answer on the page.
  const shown = useRef<string | null>(null);
  const last = useRef<Open | null>(null);
  useEffect(() => {
    if (isOverdue(last.current, tick)) report(url, shown.current !== url);
    if (!isDue(last.current, url, tick, ticks)) return;
    const request: Open = { url, tick, state: "open", stop: new AbortController() };
    last.current = request;
    get<T>(url, request.stop.signal).then(
      (data) => {
        if (request.stop.signal.aborted) return;
        request.state = "answered";
        keep({ url, data, error: null });
        shown.current = url;
        report(url, true);
      },
      (error: unknown) => {
        if (request.stop.signal.aborted) return;
        request.state = "failed";
        const reason = error instanceof Error ? error : new Error(String(error));
        keep((last) => ({ url, data: last.url === url && !takesAway(reason) ? last.data : null, error: reason }));
        if (takesAway(reason)) shown.current = null;
        report(url, shown.current !== url);
      },
    );
  }, [url, tick]);
  useEffect(
    () => () => {
      last.current?.stop.abort();
      report(url, true);
    },
    [url],
  );
  return kept.url === url ? kept : { data: null, error: null };
}
