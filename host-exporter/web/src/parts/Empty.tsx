// In place of what is not there: what is the matter, and what to do.

import type { ComponentChildren, JSX } from "preact";
import { useShared } from "../context";
import type { Key } from "../text";
import { WithCommands } from "./WithCommands";

export function Empty({ what, hint, children }: { what: Key; hint: Key; children?: ComponentChildren }): JSX.Element {
  const { text } = useShared();
  return (
    <div class="empty" role="status">
      <h2>{text(what)}</h2>
      <p>
        <WithCommands of={text(hint)} />
      </p>
      {children}
    </div>
  );
}
