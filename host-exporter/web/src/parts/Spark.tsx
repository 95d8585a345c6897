// A line without axes, as wide as a cell.

import type { JSX } from "preact";

const WIDTH = 96;
const HEIGHT = 22;

/** The path of values within a width and a height; nothing where there is no value. */
export function sparkPath(values: readonly (number | null)[], width: number, height: number): string {
  const top = Math.max(0, ...values.map((value) => value ?? 0));
  const step = values.length > 1 ? width / (values.length - 1) : 0;
  let path = "";
  let drawing = false;
  values.forEach((value, at) => {
    if (value === null) {
      drawing = false;
      return;
    }
    const x = (at * step).toFixed(1);
    const y = (height - 1 - (top > 0 ? value / top : 0) * (height - 2)).toFixed(1);
    path += `${drawing ? "L" : "M"}${x} ${y}`;
    if (!drawing) path += `h0.1`;
    drawing = true;
  });
  return path;
}

export function Spark({ values, bad = false }: { values: readonly (number | null)[]; bad?: boolean }): JSX.Element {
  return (
    <svg class={bad ? "spark bad" : "spark"} width={WIDTH} height={HEIGHT} viewBox={`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true">
      <path d={sparkPath(values, WIDTH, HEIGHT)} />
    </svg>
  );
}
