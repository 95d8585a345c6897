// A text with commands in it.

import type { JSX } from "preact";

/** Commands are between backquotes. */
export function WithCommands({ of }: { of: string }): JSX.Element {
  return <>{of.split("`").map((part, at) => (at % 2 === 1 ? <code key={at}>{part}</code> : part))}</>;
}
