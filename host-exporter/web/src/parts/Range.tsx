// Which time is shown: the last minutes or hours, or where a server has more, a time in the past.

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { useShared } from "../context";
import { clock, span } from "../format";
import { between, fieldOf, hasServer, later, LONG_RANGES, OWN_RANGE, RANGES, timeOf, untilNow, type Wrong } from "../past";
import { Link } from "./Link";
import { WithCommands } from "./WithCommands";

export function RangeChoice(): JSX.Element {
  const { view, text, viewer } = useShared();
  const time = timeOf(view, viewer);
  const shown = time.until === null ? time.range : null;
  const offered = hasServer(viewer) ? [...RANGES, ...LONG_RANGES] : RANGES;
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
      <PastChoice />
    </>
  );
}

function PastChoice(): JSX.Element {
  const { view, text, viewer } = useShared();
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
  const { range, until } = timeOf(view, viewer);
  const chosen = until === null ? null : `${clock((until - range) * 1000)} – ${clock(until * 1000)}`;
  return (
    <details class="past" ref={place}>
      <summary class={chosen === null ? "" : "chosen"}>{chosen ?? text(hasServer(viewer) ? "fromTo" : "longer")}</summary>
      <div class="panel">
        {hasServer(viewer) ? (
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
  const time = timeOf(view, viewer);
  const until = time.until ?? now;
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
    <form onSubmit={submit} key={`${time.until ?? ""} ${time.range}`}>
      <label>
        {text("fromTime")} <input type="datetime-local" name="from" required defaultValue={fieldOf(until - time.range)} />
      </label>
      <label>
        {text("toTime")} <input type="datetime-local" name="to" required defaultValue={fieldOf(until)} />
      </label>
      <p role="alert" class="bad">
        {wrong === null ? "" : text(wrong)}
      </p>
      <p class="actions">
        <button type="submit">{text("showTime")}</button>
        <Link to={{ ...view, range: time.range, until: until - time.range, own: false }}>← {text("earlier")}</Link>
        {time.until !== null && <Link to={later(view, now)}>{text("later")} →</Link>}
        {time.until !== null && <Link to={untilNow(view)}>{text("untilNow")}</Link>}
      </p>
    </form>
  );
}
