// While something loads, or why it cannot be.

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { useShared } from "../context";
import { failureOf } from "../failures";
import { hasServer, ownHour } from "../past";
import { Empty } from "./Empty";
import { Link } from "./Link";

export function Waiting({ error }: { error: Error | null }): JSX.Element {
  return error === null ? <Loading /> : <Failed error={error} />;
}

function Failed({ error }: { error: Error }): JSX.Element {
  const { view, text } = useShared();
  const { what, hint, ofServer } = failureOf(error);
  const reason = error.message.trim();
  if (!ofServer) return <Empty what={what} hint={hint} />;
  return (
    <Empty what={what} hint={hint}>
      {reason !== "" && <p class="reason">{reason}</p>}
      <p>
        <Link to={ownHour(view)}>{text("showOwnHour")}</Link>
      </p>
    </Empty>
  );
}

/** What loads for longer than this waits for the server, milliseconds. */
const SOON_MS = 3000;

function Loading(): JSX.Element {
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
  return (
    <p class="empty" role="status">
      {text("loading")} {late && hasServer(viewer) && !view.own ? text("loadingLong") : ""}
    </p>
  );
}
