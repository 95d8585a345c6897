// Which time is shown: the last minutes or hours, or where a server has more, a time in the past.

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { useShared } from "../context";
import { clock, span } from "../format";
import { between, fieldOf, LONG_RANGES, OWN_RANGE, RANGES, type Wrong } from "../past";
import { Link } from "./Link";
import { WithCommands } from "./WithCommands";

export function RangeChoice(): JSX.Element {
  const { view, text, viewer } = useShared();
  const hasServer = viewer.range_seconds_max > OWN_RANGE;
  const shown = !hasServer ? Math.min(view.range, OWN_RANGE) : view.until === null ? view.range : null;
  const offered = hasServer ? [...RANGES, ...LONG_RANGES] : RANGES;
  return (
    <>
      <div class="ranges" role="group" aria-label={text("last")}>
        {offered.map((range) => {
          const { number, unit } = span(range);
          const own = view.own && range <= OWN_RANGE;
          return (
            <Link key={range} to={{ ...view, range, until: null, own }} current={range === shown}>
              {number} {text(unit)}
            </Link>
          );
        })}
      </div>
      <PastChoice hasServer={hasServer} />
    </>
  );
}

const WRONG: Record<Wrong, "noTime" | "notBefore" | "tooLong" | "toCome"> = {
  noTime: "noTime",
  notBefore: "notBefore",
  tooLong: "tooLong",
  toCome: "toCome",
};

function PastChoice({ hasServer }: { hasServer: boolean }): JSX.Element {
  const { view, text } = useShared();
  const place = useRef<HTMLDetailsElement>(null);
  const close = (): void => {
    if (place.current) place.current.open = false;
  };
  // It lies over the page, until something else is meant.
  useEffect(() => {
    const elsewhere = (event: Event): void => {
      if (!(event.target instanceof Node && place.current?.contains(event.target))) close();
    };
    const escape = (event: KeyboardEvent): void => {
      if (event.key !== "Escape" || place.current?.open !== true) return;
      close();
      place.current.querySelector("summary")?.focus();
    };
    addEventListener("pointerdown", elsewhere);
    addEventListener("keydown", escape);
    return () => {
      removeEventListener("pointerdown", elsewhere);
      removeEventListener("keydown", escape);
    };
  }, []);
  useEffect(close, [view.until, view.range]);
  const chosen = view.until === null ? null : `${clock((view.until - view.range) * 1000)} – ${clock(view.until * 1000)}`;
  return (
    <details class="past" ref={place}>
      <summary class={chosen === null ? "" : "chosen"}>{chosen ?? text(hasServer ? "fromTo" : "longer")}</summary>
      <div class="panel">
        {hasServer ? (
          <PastForm />
        ) : (
          <p>
            <WithCommands of={text("longerHint")} />
          </p>
        )}
      </div>
    </details>
  );
}

function PastForm(): JSX.Element {
  const { view, show, text, viewer } = useShared();
  const [wrong, setWrong] = useState<Wrong | null>(null);
  const step = viewer.step_seconds;
  const now = Math.ceil(Date.now() / 1000 / step) * step;
  const until = view.until ?? now;
  const later = until + view.range;
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const field = (name: string): string => {
      const value = form.get(name);
      return typeof value === "string" ? value : "";
    };
    const chosen = between(field("from"), field("to"), step, now);
    setWrong(typeof chosen === "string" ? chosen : null);
    if (typeof chosen !== "string") show({ ...view, ...chosen, own: false });
  };
  return (
    <form onSubmit={submit} key={`${view.until ?? ""} ${view.range}`}>
      <label>
        {text("fromTime")} <input type="datetime-local" name="from" required defaultValue={fieldOf(until - view.range)} />
      </label>
      <label>
        {text("toTime")} <input type="datetime-local" name="to" required defaultValue={fieldOf(until)} />
      </label>
      <p role="alert" class="bad">
        {wrong === null ? "" : text(WRONG[wrong])}
      </p>
      <p class="actions">
        <button type="submit">{text("showTime")}</button>
        <Link to={{ ...view, until: until - view.range, own: false }}>← {text("earlier")}</Link>
        {view.until !== null && <Link to={{ ...view, until: later >= now ? null : later }}>{text("later")} →</Link>}
        {view.until !== null && <Link to={{ ...view, until: null, range: offeredRange(view.range) }}>{text("untilNow")}</Link>}
      </p>
    </form>
  );
}

/** The offered range in which one of any length is. */
function offeredRange(range: number): number {
  return [...RANGES, ...LONG_RANGES].find((known) => known >= range) ?? LONG_RANGES[LONG_RANGES.length - 1] ?? OWN_RANGE;
}
