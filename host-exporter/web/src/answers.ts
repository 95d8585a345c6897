// Whether the newest requests of a page were answered: what is still shown while they are not is older than it seems.

import { useEffect, useState } from "preact/hooks";

const failing = new Map<string, number>();
const listeners = new Set<() => void>();

/** A path was answered, or nothing of it is shown; or it was not. */
export function report(url: string, answered: boolean, now: number = Date.now()): void {
  const changed = answered ? failing.delete(url) : !failing.has(url);
  if (!answered && changed) failing.set(url, now);
  if (changed) for (const listener of listeners) listener();
}

/** Since when a path has no answer, milliseconds since 1970; none where all have one. */
export function unanswered(): number | null {
  return failing.size > 0 ? Math.min(...failing.values()) : null;
}

export function useUnanswered(): number | null {
  const [since, set] = useState(unanswered);
  useEffect(() => {
    const listener = (): void => {
      set(unanswered());
    };
    listeners.add(listener);
    listener();
    return () => {
      listeners.delete(listener);
    };
  }, []);
  return since;
}
