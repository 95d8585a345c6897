// One trace over time: call below call, and what shows that each belongs below the other.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import type { Call, Trace } from "../api";
import { useShared } from "../context";
import { useData } from "../data";
import { placed } from "../fall";
import { clock, count, seconds } from "../format";
import { Outcome } from "../parts/columns";
import { Empty } from "../parts/Empty";
import { Figure } from "../parts/Figure";
import { Link } from "../parts/Link";
import { Table, type Column } from "../parts/Table";
import { Waiting } from "../parts/Waiting";
import type { Key } from "../text";
import { to } from "../view";

export function TracePage(): JSX.Element {
  const { view, text } = useShared();
  const { data, error } = useData<{ traces: Trace[] }>(`/api/v1/traces/${encodeURIComponent(view.id ?? "")}`);
  const back = (
    <p>
      <Link to={{ ...view, page: "traces", id: null }}>← {text("backToTraces")}</Link>
    </p>
  );
  if (data === null) return <Waiting error={error} />;
  if (data.traces.length === 0) {
    return (
      <>
        {back}
        <Empty what="noTrace" hint="noTraceHint" />
      </>
    );
  }
  return (
    <>
      {back}
      {data.traces.map((trace) => (
        <OneTrace key={trace.trace_id} trace={trace} />
      ))}
    </>
  );
}

const CERTAINTIES = ["connection", "thread", "goroutine", "process", "task", "propagated"] as const;
type Certainty = (typeof CERTAINTIES)[number];

/** What each is called, and what it says of a link. */
const MEANINGS: Record<Certainty, { name: Key; meaning: Key }> = {
  connection: { name: "byConnection", meaning: "byConnectionMeans" },
  thread: { name: "byThread", meaning: "byThreadMeans" },
  goroutine: { name: "byGoroutine", meaning: "byGoroutineMeans" },
  process: { name: "byProcess", meaning: "byProcessMeans" },
  task: { name: "byTask", meaning: "byTaskMeans" },
  propagated: { name: "byContext", meaning: "byContextMeans" },
};

function known(certainty: string | null): Certainty | null {
  return CERTAINTIES.find((name) => name === certainty) ?? null;
}

/** The line from a call to the one that it belongs to, drawn by how that is known. */
function Joint({ of }: { of: string }): JSX.Element {
  return (
    <svg class={`joint ${known(of) ?? ""}`} width="18" height="16" aria-hidden="true">
      <path d="M4 0V10H16" />
    </svg>
  );
}

function OneTrace({ trace }: { trace: Trace }): JSX.Element {
  const { view, text, viewer } = useShared();
  const places = useMemo(() => new Map(placed(trace.tree).map((place, at) => [trace.tree[at]?.span_id, place])), [trace]);
  const application = (service: string): JSX.Element => <Link to={to(view, "application", { tenant: trace.tenant, service })}>{service}</Link>;
  const columns: Column<Call>[] = [
    {
      id: "call",
      head: text("call"),
      cell: (call) => (
        <span class="call">
          <svg width={Math.max(0, call.depth - 1) * 18} height="1" aria-hidden="true" />
          {call.certainty !== null && <Joint of={call.certainty} />}
          <span>
            <CallName of={call} />
            <span class="under">
              {text(call.side === "server" ? "servedBy" : "calledBy")} {application(call.service_name)}
              {call.side === "client" && call.remote !== "" && (
                <>
                  {" → "}
                  <Link to={to(view, "application", { tenant: call.tenant, service: call.service_name, part: "called" })}>{call.remote}</Link>
                </>
              )}
            </span>
          </span>
        </span>
      ),
    },
    {
      id: "certainty",
      head: text("joined"),
      cell: ({ certainty }) => {
        if (certainty === null) return text("firstCall");
        const name = known(certainty);
        const { name: word, meaning } = name === null ? { name: null, meaning: null } : MEANINGS[name];
        return (
          <span class={`chip joined ${name ?? ""}`} title={meaning === null ? undefined : text(meaning)}>
            {word === null ? certainty : text(word)}
          </span>
        );
      },
    },
    { id: "status", head: text("status"), wide: true, cell: (call) => <Outcome of={call} /> },
    { id: "duration", head: text("duration"), numeric: true, cell: (call) => <span class={call.error === "none" ? "" : "bad"}>{seconds(call.duration_ns / 1e9)}</span> },
    {
      id: "time",
      head: text("when"),
      cell: (call) => {
        const place = places.get(call.span_id) ?? { from: 0, width: 0 };
        return (
          <svg class="fall" aria-hidden="true">
            <rect
              class={call.error === "none" ? "" : "bad"}
              x={`${100 * place.from}%`}
              width={`${Math.max(0.4, 100 * place.width)}%`}
              y="3"
              height="10"
              rx="2"
            />
          </svg>
        );
      },
    },
    { id: "clock", head: text("clockError"), numeric: true, wide: true, cell: (call) => `± ${seconds(call.clock_error_ns / 1e9)}` },
    {
      id: "instance",
      head: text("instance"),
      wide: true,
      cell: (call) => call.k8s_pod_name || call.sandbox_id,
    },
  ];
  return (
    <>
      <h1>
        {trace.operation} {trace.resource}{" "}
        <span class="count">
          {viewer.operator && `${trace.tenant} / `}
          {application(trace.service_name)}
        </span>
      </h1>
      <div class="figures">
        <Figure name={text("when")} value={clock(trace.start_unix_ns / 1e6)} />
        <Figure name={text("duration")} value={seconds(trace.duration_ns / 1e9)} />
        <Figure name={text("calls")} value={count(trace.spans)} />
        <Figure name={text("failedCalls")} value={count(trace.errors)} />
      </div>
      <Table caption={text("trace")} columns={columns} rows={trace.tree} id={(call) => call.span_id} sort="" />
      <Meanings of={trace.tree} />
      <p class="note">
        {text("trace")} <code>{trace.trace_id}</code>
      </p>
    </>
  );
}

/** Leads to the traces of the same route, table or topic. */
function CallName({ of: call }: { of: Call }): JSX.Element {
  const { view } = useShared();
  const name = (
    <>
      <b>{call.operation}</b> {call.resource}
    </>
  );
  if (call.resource === "") return <span class="name">{name}</span>;
  return (
    <Link to={to(view, "traces", { tenant: call.tenant, service: call.service_name, route: call.resource })} class="name">
      {name}
    </Link>
  );
}

/** What the certainties say that a trace has. */
function Meanings({ of }: { of: readonly Call[] }): JSX.Element | null {
  const { text } = useShared();
  const met = CERTAINTIES.filter((certainty) => of.some((call) => call.certainty === certainty));
  return (
    <section class="meanings">
      <h2>{text("howJoined")}</h2>
      <dl>
        {met.map((certainty) => (
          <div key={certainty}>
            <dt>
              <Joint of={certainty} />
              <span class={`chip joined ${certainty}`}>{text(MEANINGS[certainty].name)}</span>
            </dt>
            <dd>{text(MEANINGS[certainty].meaning)}</dd>
          </div>
        ))}
      </dl>
      <p class="note">{text("traceNote")}</p>
    </section>
  );
}
