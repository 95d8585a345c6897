// A link to another view, which is the address itself.

import type { ComponentChildren, JSX } from "preact";
import { format, type View } from "../view";

interface Props {
  to: View;
  children: ComponentChildren;
  current?: boolean;
  class?: string;
}

export function Link({ to, children, current = false, class: name }: Props): JSX.Element {
  return (
    <a href={format(to)} class={name} aria-current={current ? "page" : undefined}>
      {children}
    </a>
  );
}
