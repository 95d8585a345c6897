// What is taken of a limit.

import type { JSX } from "preact";
import { ratio } from "../format";
import { NEAR } from "../troubles";

export function Bar({ taken, limit, label }: { taken: number; limit: number; label: string }): JSX.Element {
  const share = ratio(taken, limit) ?? 0;
  return <progress class={share >= 1 ? "full" : share >= NEAR ? "near" : ""} value={Math.min(share, 1)} max={1} aria-label={label} title={label} />;
}
