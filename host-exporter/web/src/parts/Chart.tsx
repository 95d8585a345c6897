// Lines over time, drawn by uPlot; its last values are also in words, for those who do not see it.

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import UPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { useShared } from "../context";
import { ABSENT } from "../format";
import { colour, keepWide, timeAxis } from "./plot";

export interface Drawn {
  label: string;
  /** Name of a colour of the style sheet. */
  colour: string;
  values: readonly (number | null)[];
}

interface Props {
  title: string;
  /** Ends of the points, milliseconds. */
  times: readonly number[];
  lines: readonly Drawn[];
  format: (value: number | null) => string;
  /** What the points cover in all, seconds. */
  range: number;
}

const HEIGHT = 170;

function options(width: number, { lines, format, range }: Props): UPlot.Options {
  const axis = { stroke: colour("faint"), grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false } };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { x: { time: true }, y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
    axes: [
      { ...axis, ...timeAxis(range) },
      { ...axis, values: (_, splits) => splits.map((value) => format(value)), size: 62 },
    ],
    series: [
      {},
      ...lines.map(({ label, colour: name }) => ({
        label,
        stroke: colour(name),
        width: 1.75,
        points: { show: (plot: UPlot, at: number) => isolated(plot.data[at]), size: 4 },
      })),
    ],
  };
}

/** Whether a line has a value between two gaps, which has no length. */
function isolated(values: ArrayLike<number | null | undefined> | undefined): boolean {
  if (values === undefined) return false;
  const there = (at: number): boolean => typeof values[at] === "number";
  return Array.from({ length: values.length }, (_, at) => at).some((at) => there(at) && !there(at - 1) && !there(at + 1));
}

export function Chart(props: Props): JSX.Element {
  const { theme } = useShared();
  const { title, times, lines, format, range } = props;
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const shape = lines.map((line) => line.label + line.colour).join();
  const data = (): UPlot.AlignedData => [
    latest.current.times.map((ms) => ms / 1000),
    ...latest.current.lines.map((line) => [...line.values]),
  ];
  useEffect(() => {
    const element = place.current;
    if (!element) return undefined;
    const made = new UPlot(options(element.clientWidth, latest.current), data(), element);
    plot.current = made;
    const takeAway = keepWide(made, element, HEIGHT);
    return () => {
      takeAway();
      plot.current = null;
    };
  }, [shape, range, theme]);
  useEffect(() => {
    plot.current?.setData(data());
  }, [times, lines]);
  const lastOf = (line: Drawn): string => format([...line.values].reverse().find((value) => value !== null) ?? null);
  const inWords = lines.map((line) => `${line.label} ${lastOf(line)}`).join(", ");
  return (
    <figure class="chart">
      <figcaption>
        <span class="title">{title}</span>
        {lines.map((line) => (
          <span key={line.label} class="legend">
            <i class={`dot ${line.colour}`} aria-hidden="true" />
            {line.label} <b>{lastOf(line) || ABSENT}</b>
          </span>
        ))}
      </figcaption>
      <div ref={place} role="img" aria-label={`${title}: ${inWords}`} />
    </figure>
  );
}
