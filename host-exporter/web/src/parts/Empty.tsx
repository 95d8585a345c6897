// In place of what is not there: what is the matter, and what to do.

import type { JSX } from "preact";
import { Refused } from "../api";
import { useShared } from "../context";
import type { Key } from "../text";

/** A text with commands between backquotes. */
export function WithCommands({ of }: { of: string }): JSX.Element {
  return <>{of.split("`").map((part, at) => (at % 2 === 1 ? <code key={at}>{part}</code> : part))}</>;
}

export function Empty({ what, hint }: { what: Key; hint: Key }): JSX.Element {
  const { text } = useShared();
  return (
    <div class="empty" role="status">
      <h2>{text(what)}</h2>
      <p>
        <WithCommands of={text(hint)} />
      </p>
    </div>
  );
}

/** While something loads, or why it cannot be. */
export function Waiting({ error }: { error: Error | null }): JSX.Element {
  const { text } = useShared();
  if (error === null) {
    return (
      <p class="empty" role="status">
        {text("loading")}
      </p>
    );
  }
  if (error instanceof Refused && error.status === 403) return <Empty what="forbidden" hint="forbiddenHint" />;
  return <Empty what="failedToLoad" hint="failedToLoadHint" />;
}
