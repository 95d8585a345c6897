// In place of what is not there: what is the matter, and what to do.

import type { JSX } from "preact";
import { Refused } from "../api";
import { useShared } from "../context";
import { Loading, ServerFailed } from "./Past";
import type { Key } from "../text";
import { WithCommands } from "./WithCommands";

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
  if (error === null) return <Loading />;
  if (error instanceof Refused && [502, 504, 507].includes(error.status)) return <ServerFailed error={error} />;
  if (error instanceof Refused && error.status === 403) return <Empty what="forbidden" hint="forbiddenHint" />;
  return <Empty what="failedToLoad" hint="failedToLoadHint" />;
}
