// A field of a form whose value counts when it is left, or with Enter. What is typed stays while the page is drawn anew with
// other data.

import type { ComponentChildren, JSX } from "preact";
import { useState } from "preact/hooks";

interface Props {
  label: ComponentChildren;
  type: "text" | "number";
  value: string;
  min?: number;
  commit: (value: string) => void;
}

export function Field({ label, type, value, min, commit }: Props): JSX.Element {
  const [typed, setTyped] = useState<string | null>(null);
  return (
    <label>
      {label}
      <input
        type={type}
        min={min}
        value={typed ?? value}
        onInput={(event) => {
          setTyped(event.currentTarget.value);
        }}
        onChange={(event) => {
          setTyped(null);
          commit(event.currentTarget.value.trim());
        }}
      />
    </label>
  );
}
