// What a page can show of the chosen time, and what to do where that is less than was chosen.

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Refused } from "../api";
import { useUnanswered } from "../answers";
import { useShared } from "../context";
import { clock } from "../format";
import { isPast, OWN_RANGE } from "../past";
import type { Key } from "../text";
import type { View } from "../view";
import { Link } from "./Link";
import { Empty } from "./Empty";
import { WithCommands } from "./WithCommands";

/** The same of this exporter alone, which needs no server. */
function ownHour(view: View): View {
  return { ...view, own: true, until: null, range: Math.min(view.range, OWN_RANGE) };
}

/** On a page that shows the chosen time: why it is not what was chosen. */
export function TimeNote(): JSX.Element | null {
  const { view, text, viewer } = useShared();
  const hasServer = viewer.range_seconds_max > OWN_RANGE;
  if (!hasServer) {
    if (!isPast(view)) return null;
    return (
      <p class="note" role="status">
        <WithCommands of={`${text("hourInstead")} ${text("longerHint")}`} />
      </p>
    );
  }
  if (!view.own) return null;
  return (
    <p class="note" role="status">
      {text("ownHour")} <Link to={{ ...view, own: false }}>{text("allNodes")}</Link>
    </p>
  );
}

/** On a page, or a part of one, whose numbers are of another time than the chosen one. */
export function OtherTime({ what }: { what: Key }): JSX.Element | null {
  const { view, text, viewer } = useShared();
  return isPast(view) && viewer.range_seconds_max > OWN_RANGE ? (
    <p class="note" role="status">
      {text(what)}
    </p>
  ) : null;
}

const REASONS: Partial<Record<number, readonly [Key, Key]>> = {
  502: ["serverFailed", "serverFailedHint"],
  504: ["serverSlow", "serverSlowHint"],
  507: ["serverLarge", "serverLargeHint"],
};

/** Why the server of the past has no answer; nothing where it is not the server's. */
export function ServerFailed({ error }: { error: Error }): JSX.Element | null {
  const { view, text } = useShared();
  const reason = error instanceof Refused ? REASONS[error.status] : undefined;
  if (reason === undefined) return null;
  const [what, hint] = reason;
  return (
    <Empty what={what} hint={hint}>
      {error.message.trim() !== "" && <p class="reason">{error.message.trim()}</p>}
      <p>
        <Link to={ownHour(view)}>{text("showOwnHour")}</Link>
      </p>
    </Empty>
  );
}

/** What loads for longer than this waits for the server, milliseconds. */
const SOON_MS = 3000;

/** While something loads. */
export function Loading(): JSX.Element {
  const { text, view, viewer } = useShared();
  const [late, setLate] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => {
      setLate(true);
    }, SOON_MS);
    return () => {
      clearTimeout(timer);
    };
  }, []);
  const ofServer = viewer.range_seconds_max > OWN_RANGE && !view.own;
  return (
    <p class="empty" role="status">
      {text("loading")} {late && ofServer ? text("loadingLong") : ""}
    </p>
  );
}

/** Over every page: that what it shows is older than it seems. */
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
