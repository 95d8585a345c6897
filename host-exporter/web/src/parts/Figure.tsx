// One number with its name.

import type { ComponentChildren, JSX } from "preact";

export function Figure({ name, value, children }: { name: string; value: string; children?: ComponentChildren }): JSX.Element {
  return (
    <p class="figure">
      <span>{name}</span>
      <b>{value}</b>
      {children}
    </p>
  );
}
