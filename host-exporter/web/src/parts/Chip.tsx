// A state in a word and a colour; the word says all.

import type { JSX } from "preact";
import { useShared } from "../context";
import type { Verdict } from "../rows";
import type { Key } from "../text";

const WORDS: Record<Verdict, Key> = { burning: "burning", missed: "missed", met: "met", none: "noObjective" };

export function VerdictChip({ of }: { of: Verdict }): JSX.Element {
  const { text } = useShared();
  return <span class={`chip ${of}`}>{text(WORDS[of])}</span>;
}

const GOOD = new Set(["watching", "connected", "up"]);
const BAD = new Set(["unmonitored", "quarantined", "down"]);

/** For an order in which what needs a look comes first. */
export function rankOf(state: string): number {
  return BAD.has(state) ? 0 : GOOD.has(state) ? 2 : 1;
}

export function StateChip({ of }: { of: string }): JSX.Element {
  return <span class={`chip ${GOOD.has(of) ? "met" : BAD.has(of) ? "burning" : "none"}`}>{of}</span>;
}
