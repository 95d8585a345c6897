// Traces: what one request came to in all sandboxes that it went through. A list of them, and one of them over time.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { path, type Call, type Trace, type Traces } from "../api";
import { useShared } from "../context";
import { useData } from "../data";
import { placed } from "../fall";
import { clock, count, seconds } from "../format";
import { CallFilter } from "../parts/CallFilter";
import { Outcome, Trouble } from "../parts/columns";
import { Empty, Waiting } from "../parts/Empty";
import { Field } from "../parts/Field";
import { Figure } from "../parts/Figure";
import { Link } from "../parts/Link";
import { Table, type Column } from "../parts/Table";
import { matches } from "../rows";
import type { Key } from "../text";
import { to } from "../view";

const LIMIT = 200;

type Summary = Traces["traces"][number];

export function TracesPage(): JSX.Element {
  const { view, show, text, viewer } = useShared();
  const { data, error } = useData<Traces>(
    path("/api/v1/traces", {
      tenant: view.tenant,
      service_name: view.service,
      route: view.route,
      errors: view.failed || null,
      duration_ms_min: view.slower === null ? null : Math.ceil(view.slower),
      limit: LIMIT,
    }),
  );
  const rows = (data?.traces ?? []).filter((row) => matches(view.filter, row.tenant, row.operation, row.resource, row.status, ...row.services));
  const columns: Column<Summary>[] = [
    { id: "when", head: text("when"), numeric: true, value: (row) => row.start_unix_ns, cell: (row) => clock(row.start_unix_ns / 1e6) },
    {
      id: "interface",
      head: text("interface"),
      value: (row) => `${row.operation} ${row.resource}`,
      cell: (row) => (
        <>
          <Link to={to(view, "trace", { id: row.trace_id })} class="name">
            <b>{row.operation}</b> {row.resource}
          </Link>
          <span class="under">
            {viewer.operator ? `${row.tenant} / ` : ""}
            {row.service_name} · {row.protocol}
          </span>
        </>
      ),
    },
    { id: "status", head: text("status"), value: (row) => row.status, cell: (row) => <Outcome of={row} /> },
    { id: "duration", head: text("duration"), numeric: true, value: (row) => row.duration_ns, cell: (row) => seconds(row.duration_ns / 1e9) },
    { id: "calls", head: text("calls"), numeric: true, value: (row) => row.spans, cell: (row) => count(row.spans) },
    {
      id: "failed",
      head: text("failedCalls"),
      numeric: true,
      value: (row) => row.errors,
      cell: (row) => <Trouble of={row.errors} />,
    },
    { id: "services", head: text("applications"), wide: true, value: (row) => row.services.length, cell: (row) => row.services.join(", ") },
  ];
  return (
    <>
      <h1>
        {text("traces")} {view.service !== null && <span class="count">{view.service}</span>}
      </h1>
      <CallFilter>
        <Field
          label={text("route")}
          type="text"
          value={view.route ?? ""}
          commit={(route) => {
            show({ ...view, route: route === "" ? null : route }, true);
          }}
        />
      </CallFilter>
      {data === null ? (
        <Waiting error={error} />
      ) : rows.length === 0 ? (
        <Empty what={view.filter === "" ? "noTraces" : "noMatch"} hint={view.filter === "" ? "noTracesHint" : "noMatchHint"} />
      ) : (
        <Table caption={text("traces")} columns={columns} rows={rows} id={(row) => row.trace_id} sort="-when" addressed />
      )}
      {data !== null && data.left_out > 0 && (
        <p class="note">
          {data.left_out} {text("tracesLeftOut")}
        </p>
      )}
    </>
  );
}

export function TracePage(): JSX.Element {
  const { view, text } = useShared();
  const { data, error } = useData<{ traces: Trace[] }>(`/api/v1/traces/${encodeURIComponent(view.id ?? "")}`);
  if (data === null) return <Waiting error={error} />;
  if (data.traces.length === 0) return <Empty what="noTrace" hint="noTraceHint" />;
  return (
    <>
      {data.traces.map((trace) => (
        <OneTrace key={trace.trace_id} trace={trace} />
      ))}
      <p class="note">{text("traceNote")}</p>
    </>
  );
}

const CERTAINTIES: Record<string, Key> = {
  connection: "byConnection",
  thread: "byThread",
  task: "byTask",
  propagated: "byContext",
};

function OneTrace({ trace }: { trace: Trace }): JSX.Element {
  const { view, text, viewer } = useShared();
  const places = useMemo(() => new Map(placed(trace.tree).map((place, at) => [trace.tree[at]?.span_id, place])), [trace]);
  const columns: Column<Call>[] = [
    {
      id: "call",
      head: text("call"),
      cell: (call) => (
        <span class="call">
          <svg width={call.depth * 18} height="1" aria-hidden="true" />
          <span>
            <span class="name">
              <b>{call.operation}</b> {call.resource}
            </span>
            <span class="under">
              {text(call.side === "server" ? "servedBy" : "calledBy")}{" "}
              <Link to={to(view, "application", { tenant: call.tenant, service: call.service_name })}>{call.service_name}</Link>
              {call.side === "client" && call.remote !== "" ? ` → ${call.remote}` : ""}
            </span>
          </span>
        </span>
      ),
    },
    {
      id: "certainty",
      head: text("joined"),
      cell: (call) => (call.certainty === null ? text("firstCall") : <span class="chip none">{text(CERTAINTIES[call.certainty] ?? "joined")}</span>),
    },
    { id: "status", head: text("status"), cell: (call) => <Outcome of={call} /> },
    { id: "duration", head: text("duration"), numeric: true, cell: (call) => seconds(call.duration_ns / 1e9) },
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
        {trace.operation} {trace.resource} <span class="count">{viewer.operator ? `${trace.tenant} / ${trace.service_name}` : trace.service_name}</span>
      </h1>
      <div class="figures">
        <Figure name={text("when")} value={clock(trace.start_unix_ns / 1e6)} />
        <Figure name={text("duration")} value={seconds(trace.duration_ns / 1e9)} />
        <Figure name={text("calls")} value={count(trace.spans)} />
        <Figure name={text("failedCalls")} value={count(trace.errors)} />
      </div>
      <Table caption={text("trace")} columns={columns} rows={trace.tree} id={(call) => call.span_id} sort="" />
      <p class="note">
        {text("trace")} <code>{trace.trace_id}</code>
      </p>
    </>
  );
}
