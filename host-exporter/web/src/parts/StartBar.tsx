// A start as one bar, whose parts are the times between its moments.

import type { JSX } from "preact";
import { useShared } from "../context";
import { seconds } from "../format";
import { PHASES, SHOWN, type Part } from "../starts";

/** `longest` is as wide as the bar's place. */
export function StartBar({ parts, longest }: { parts: readonly Part[]; longest: number }): JSX.Element {
  const { text } = useShared();
  const percent = (value: number): string => `${longest > 0 ? (100 * value) / longest : 0}%`;
  const inWords = parts.map(({ phase, to }) => `${text(SHOWN[phase].name)} ${seconds(to)}`).join(", ");
  return (
    <svg class="start" role="img" aria-label={inWords}>
      {parts.map(({ phase, from, to }) => (
        <rect key={phase} class={SHOWN[phase].colour} x={percent(from)} width={percent(to - from)} y="2" height="12">
          <title>{`${text(SHOWN[phase].name)}: ${seconds(to)} (+${seconds(to - from)})`}</title>
        </rect>
      ))}
    </svg>
  );
}

export function StartLegend(): JSX.Element {
  const { text } = useShared();
  return (
    <p class="legends">
      {PHASES.map((phase) => (
        <span key={phase} class="legend">
          <i class={`dot ${SHOWN[phase].colour}`} aria-hidden="true" />
          {text(SHOWN[phase].name)}
        </span>
      ))}
    </p>
  );
}
