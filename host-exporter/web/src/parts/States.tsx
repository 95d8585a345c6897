// How sandboxes are monitored: how many in which state, and how complete their numbers are.

import type { JSX } from "preact";
import { count, share } from "../format";
import { COMPLETE } from "../troubles";
import { StateChip } from "./Chip";

export function States({ of }: { of: Record<string, number> }): JSX.Element {
  return (
    <>
      {Object.entries(of).map(([state, number]) => (
        <span key={state} class="status">
          <StateChip of={state} /> <b>{count(number)}</b>
        </span>
      ))}
    </>
  );
}

export function Completeness({ of }: { of: number | null }): JSX.Element {
  return <span class={of !== null && of < COMPLETE ? "bad" : ""}>{share(of)}</span>;
}
