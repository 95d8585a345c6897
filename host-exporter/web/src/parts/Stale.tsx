// Over every page: that what it shows is older than it seems.

import type { JSX } from "preact";
import { useUnanswered } from "../answers";
import { useShared } from "../context";
import { clock } from "../format";

export function Stale(): JSX.Element | null {
  const { text } = useShared();
  const since = useUnanswered();
  if (since === null) return null;
  return (
    <p class="stale" role="status">
      {text("stale")} {clock(since)}. {text("staleHint")}
    </p>
  );
}
