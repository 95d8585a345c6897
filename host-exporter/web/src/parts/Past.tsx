// What a page can show of the chosen time, where that is less than was chosen.

import type { ComponentChildren, JSX } from "preact";
import { useShared } from "../context";
import { hasServer, isPast } from "../past";
import type { Key } from "../text";
import { Link } from "./Link";
import { WithCommands } from "./WithCommands";

function Note({ children }: { children: ComponentChildren }): JSX.Element {
  return (
    <p class="note" role="status">
      {children}
    </p>
  );
}

/** On a page that shows the chosen time: why it is not what was chosen, and which of its numbers are of another one (`except`). */
export function TimeNote({ except }: { except?: Key }): JSX.Element | null {
  const { view, text, viewer } = useShared();
  if (!hasServer(viewer)) {
    if (!isPast(view)) return null;
    return (
      <Note>
        <WithCommands of={`${text("hourInstead")} ${text("longerHint")}`} />
      </Note>
    );
  }
  if (view.own) {
    return (
      <Note>
        {text("ownHour")} <Link to={{ ...view, own: false }}>{text("allNodes")}</Link>
      </Note>
    );
  }
  return except !== undefined && isPast(view) ? <Note>{text(except)}</Note> : null;
}

/** On a page that shows another time than the chosen one, with a server or without. */
export function OtherTime({ what }: { what: Key }): JSX.Element | null {
  const { view, text } = useShared();
  return isPast(view) ? <Note>{text(what)}</Note> : null;
}
