// When to look again.

import { useEffect, useState } from "preact/hooks";
import type { Viewer } from "./api";

/** Between two attempts to have events where the exporter has refused them, milliseconds. */
const REFUSED_MS = 60_000;

/**
 * Counts up at each moment at which there is something new, while `live` and the page is visible: at the exporter's events, or by the
 * clock where it sends none, as too many pages are open. A page that is hidden has no stream, and leaves its place to others.
 */
export function useTicks(live: boolean, viewer: Viewer | null): number {
  const [tick, setTick] = useState(0);
  useEffect(() => {
    if (!live || viewer === null) return undefined;
    let source: EventSource | null = null;
    let clock: ReturnType<typeof setInterval> | undefined;
    let retry: ReturnType<typeof setTimeout> | undefined;
    const next = (): void => {
      setTick((tick) => tick + 1);
    };
    const close = (): void => {
      source?.close();
      source = null;
      clearInterval(clock);
      clearTimeout(retry);
    };
    const open = (): void => {
      close();
      const opened = new EventSource("/api/v1/events");
      source = opened;
      opened.addEventListener("step", next);
      opened.addEventListener("error", () => {
        // Another state: the browser opens it again by itself.
        if (opened.readyState !== EventSource.CLOSED) return;
        close();
        clock = setInterval(next, viewer.step_seconds * 1000);
        retry = setTimeout(open, REFUSED_MS);
      });
    };
    const changed = (): void => {
      if (document.visibilityState === "visible") {
        next();
        open();
      } else close();
    };
    if (document.visibilityState === "visible") open();
    document.addEventListener("visibilitychange", changed);
    return () => {
      document.removeEventListener("visibilitychange", changed);
      close();
    };
  }, [live, viewer]);
  return tick;
}
