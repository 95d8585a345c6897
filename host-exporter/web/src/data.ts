// Loads what a page shows, again with each tick; the last answer stays on the page until there is a newer one.

import { useEffect, useState } from "preact/hooks";
import { get, Refused } from "./api";
import { useShared } from "./context";

export interface Loaded<T> {
  data: T | null;
  /** Why the newest request failed; the data is of an earlier one. */
  error: Error | null;
}

interface Kept<T> extends Loaded<T> {
  url: string;
}

export function useData<T>(url: string): Loaded<T> {
  const { tick } = useShared();
  const [kept, keep] = useState<Kept<T>>({ url, data: null, error: null });
  useEffect(() => {
    const stop = new AbortController();
    get<T>(url, stop.signal).then(
      (data) => {
        keep({ url, data, error: null });
      },
      (error: unknown) => {
        if (stop.signal.aborted) return;
        const reason = error instanceof Error ? error : new Error(String(error));
        keep((last) => ({ url, data: last.url === url && !(reason instanceof Refused) ? last.data : null, error: reason }));
      },
    );
    return () => {
      stop.abort();
    };
  }, [url, tick]);
  return kept.url === url ? kept : { data: null, error: null };
}
