// Durations over time as a heat map: axes by uPlot, cells drawn into its canvas. Each cell leads to the traces of its calls, by a
// click or with the keyboard.

import type { JSX, TargetedKeyboardEvent, TargetedMouseEvent } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import UPlot from "uplot";
import type { Hour, Line } from "../api";
import { useShared } from "../context";
import { clock, count, seconds } from "../format";
import { again, callsOf, cells, first, hit, isMove, moved, strength, type Box, type Cell } from "../heat";
import { ends } from "../rows";
import { to, type View } from "../view";
import { Link } from "./Link";
import { colour, keepWide, timeAxis } from "./plot";

const HEIGHT = 210;

/** How far beside a cell it is still meant, pixels: cells are smaller than a finger. */
const REACH = 14;

/** Where the cells are in the plot, in pixels of the page. */
function boxesOf(plot: UPlot, shown: readonly Cell[], stepSeconds: number): Box[] {
  const scale = plot.ctx.canvas.width / plot.width;
  return shown.map((cell) => {
    const end = cell.end / 1000;
    const left = plot.valToPos(end - stepSeconds, "x", true) / scale;
    const top = plot.valToPos(cell.high, "y", true) / scale;
    const width = plot.valToPos(end, "x", true) / scale - left;
    const height = plot.valToPos(cell.low, "y", true) / scale - top;
    return { left, top, width: Math.max(1, width - 1), height: Math.max(1, height - 1) };
  });
}

function draw(plot: UPlot, shown: readonly Cell[], boxes: readonly Box[]): void {
  const most = Math.max(...shown.map((cell) => cell.requests));
  const ink = colour("heat");
  const { ctx } = plot;
  const scale = ctx.canvas.width / plot.width;
  ctx.save();
  ctx.scale(scale, scale);
  shown.forEach((cell, at) => {
    const box = boxes[at];
    if (!box) return;
    ctx.fillStyle = `rgb(${ink} / ${strength(cell.requests, most)})`;
    ctx.fillRect(box.left, box.top, box.width, box.height);
  });
  ctx.restore();
}

export function Heat({ hour, line }: { hour: Hour; line: Line }): JSX.Element | null {
  const { text, theme } = useShared();
  const place = useRef<HTMLDivElement>(null);
  const shown = useMemo(() => cells(line.points), [line]);
  const [boxes, setBoxes] = useState<Box[]>([]);
  useEffect(() => {
    const element = place.current;
    if (!element || shown.length === 0) return undefined;
    const times = ends(hour).map((ms) => ms / 1000);
    const low = Math.min(...shown.map((cell) => cell.low));
    const high = Math.max(...shown.map((cell) => cell.high));
    const axis = { stroke: colour("faint"), grid: { show: false }, ticks: { show: false } };
    const begin = (times[0] ?? 0) - hour.step_seconds;
    const made = new UPlot(
      {
        width: element.clientWidth,
        height: HEIGHT,
        // Room for half of the last time.
        padding: [null, 30, null, null],
        legend: { show: false },
        cursor: { show: false },
        scales: {
          x: { time: true, range: () => [begin, times[times.length - 1] ?? begin + 1] },
          // Logarithmic. The enumeration exists for the compiler alone.
          // eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment
          y: { distr: 3, log: 2, range: () => [low, high] },
        },
        axes: [
          { ...axis, ...timeAxis(hour.range_seconds) },
          { ...axis, size: 62, values: (_, splits) => splits.map((value: number | null) => (value === null ? "" : seconds(value))) },
        ],
        series: [{}, { show: true, stroke: "transparent", points: { show: false } }],
        hooks: {
          drawAxes: [
            (plot) => {
              const drawn = boxesOf(plot, shown, hour.step_seconds);
              draw(plot, shown, drawn);
              setBoxes(drawn);
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
  return (
    <figure class="chart">
      <figcaption>
        <span class="title">{text("heat")}</span>
        <span class="legend">{text("heatHint")}</span>
      </figcaption>
      <div class="heat">
        <div ref={place} role="img" aria-label={`${text("heat")}: ${bounds(largest)}: ${count(largest.requests)}`} />
        <Chooser shown={shown} boxes={boxes} tracesOf={(view, cell) => tracesOf(view, cell, hour, line)} />
      </div>
    </figure>
  );
}

function bounds(cell: Cell): string {
  return `${seconds(cell.low)} – ${seconds(cell.high)}`;
}

function tracesOf(view: View, cell: Cell, hour: Hour, line: Line): View {
  return to(view, "traces", { tenant: line.tenant, service: line.service_name, cell: callsOf(cell, line.side, hour.step_seconds) });
}

interface Choice {
  shown: readonly Cell[];
  /** Where each of them is. */
  boxes: readonly Box[];
  tracesOf: (view: View, cell: Cell) => View;
}

/** Lies over the cells: one of them is chosen by the pointer or by arrow keys, and opened. */
function Chooser({ shown, boxes, tracesOf }: Choice): JSX.Element {
  const { view, show, text } = useShared();
  const [chosen, choose] = useState<Cell | null>(null);
  const known = chosen === null ? -1 : again(shown, chosen);
  const cell = shown[known] ?? null;
  const box = boxes[known];
  const at = (event: TargetedMouseEvent<HTMLButtonElement>): Cell | null => {
    const own = event.currentTarget.getBoundingClientRect();
    const found = hit(boxes, event.clientX - own.left, event.clientY - own.top, REACH);
    return found === null ? null : (shown[found] ?? null);
  };
  const pressed = (event: TargetedKeyboardEvent<HTMLButtonElement>): void => {
    if (!isMove(event.key)) return;
    event.preventDefault();
    choose(cell === null ? first(shown) : moved(shown, cell, event.key));
  };
  return (
    <>
      <button
        type="button"
        class="cells"
        aria-label={text("chooseCell")}
        aria-describedby="cell"
        onMouseMove={(event) => {
          const over = at(event);
          // Beside all cells the last one stays: the way to its link leads there.
          if (over !== null) choose(over);
        }}
        onFocus={() => {
          choose((chosen) => chosen ?? first(shown));
        }}
        onKeyDown={pressed}
        onClick={(event) => {
          // A key's click has no place.
          const opened = event.detail === 0 ? (cell ?? first(shown)) : at(event);
          if (opened !== null) show(tracesOf(view, opened));
        }}
      >
        <svg aria-hidden="true">
          {box && <rect x={box.left - 1} y={box.top - 1} width={box.width + 2} height={box.height + 2} />}
        </svg>
      </button>
      <p id="cell" class="note" aria-live="polite">
        {cell === null ? (
          text("chooseCell")
        ) : (
          <>
            {clock(cell.end)} · {bounds(cell)} · {count(cell.requests)} {text("requestsOfCell")} ·{" "}
            <Link to={tracesOf(view, cell)}>{text("traces")}</Link>
          </>
        )}
      </p>
    </>
  );
}
