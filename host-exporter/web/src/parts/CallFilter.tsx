// Which calls are listed: those that failed, those that took long.

import type { ComponentChildren, JSX } from "preact";
import { useShared } from "../context";
import { Field } from "./Field";

export function CallFilter({ children }: { children?: ComponentChildren }): JSX.Element {
  const { view, show, text } = useShared();
  return (
    <div class="choices">
      <label>
        <input
          type="checkbox"
          checked={view.failed}
          onChange={(event) => {
            show({ ...view, failed: event.currentTarget.checked }, true);
          }}
        />
        {text("onlyFailed")}
      </label>
      <Field
        label={text("slowerThan")}
        type="number"
        min={0}
        value={view.slower === null ? "" : String(view.slower)}
        commit={(value) => {
          const slower = Number(value);
          show({ ...view, slower: slower > 0 ? slower : null }, true);
        }}
      />
      {children}
    </div>
  );
}
