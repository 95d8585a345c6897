// Durations over time as a heat map: axes by uPlot, cells drawn into its canvas.

import type { JSX } from "preact";
import { useEffect, useMemo, useRef } from "preact/hooks";
import UPlot from "uplot";
import { useShared } from "../context";
import { clock, count, seconds } from "../format";
import { cells, strength, type Cell } from "../heat";
import type { Hour, Line } from "../api";
import { ends } from "../rows";
import { colour, keepWide } from "./plot";

const HEIGHT = 210;

function draw(plot: UPlot, shown: readonly Cell[], stepSeconds: number): void {
  const most = Math.max(...shown.map((cell) => cell.requests));
  const ink = colour("heat");
  const { ctx } = plot;
  ctx.save();
  for (const cell of shown) {
    const end = cell.end / 1000;
    const left = plot.valToPos(end - stepSeconds, "x", true);
    const right = plot.valToPos(end, "x", true);
    const top = plot.valToPos(cell.high, "y", true);
    const bottom = plot.valToPos(cell.low, "y", true);
    ctx.fillStyle = `rgb(${ink} / ${strength(cell.requests, most)})`;
    ctx.fillRect(left, top, Math.max(1, right - left - 1), Math.max(1, bottom - top - 1));
  }
  ctx.restore();
}

export function Heat({ hour, line }: { hour: Hour; line: Line }): JSX.Element | null {
  const { text, theme } = useShared();
  const place = useRef<HTMLDivElement>(null);
  const shown = useMemo(() => cells(line.points), [line]);
  useEffect(() => {
    const element = place.current;
    if (!element || shown.length === 0) return undefined;
    const times = ends(hour).map((ms) => ms / 1000);
    const low = Math.min(...shown.map((cell) => cell.low));
    const high = Math.max(...shown.map((cell) => cell.high));
    const axis = { stroke: colour("faint"), grid: { show: false }, ticks: { show: false } };
    const first = (times[0] ?? 0) - hour.step_seconds;
    const made = new UPlot(
      {
        width: element.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        scales: {
          x: { time: true, range: () => [first, times[times.length - 1] ?? first + 1] },
          // Logarithmic. The enumeration exists for the compiler alone.
          // eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment
          y: { distr: 3, log: 2, range: () => [low, high] },
        },
        axes: [
          { ...axis, size: 28, space: 60, values: (_, splits) => splits.map((at) => clock(at * 1000).slice(0, 5)) },
          { ...axis, size: 62, values: (_, splits) => splits.map((value: number | null) => (value === null ? "" : seconds(value))) },
        ],
        series: [{}, { show: true, stroke: "transparent", points: { show: false } }],
        hooks: {
          drawAxes: [
            (plot) => {
              draw(plot, shown, hour.step_seconds);
            },
          ],
        },
      },
      [times, times.map(() => low)],
      element,
    );
    return keepWide(made, element, HEIGHT);
  }, [hour, shown, theme]);
  if (shown.length === 0) return null;
  const largest = shown.reduce((most, cell) => (cell.requests > most.requests ? cell : most));
  const inWords = `${seconds(largest.low)} – ${seconds(largest.high)}: ${count(largest.requests)}`;
  return (
    <figure class="chart">
      <figcaption>
        <span class="title">{text("heat")}</span>
        <span class="legend">{text("heatHint")}</span>
      </figcaption>
      <div ref={place} role="img" aria-label={`${text("heat")}: ${inWords}`} />
    </figure>
  );
}
