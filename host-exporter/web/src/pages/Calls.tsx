// Calls that failed or took long: the spans that agents sampled.

import type { JSX } from "preact";
import { path, type Span, type Spans } from "../api";
import { useShared } from "../context";
import { useData } from "../data";
import { clock, seconds } from "../format";
import { CallFilter } from "../parts/CallFilter";
import { Outcome } from "../parts/columns";
import { Empty } from "../parts/Empty";
import { Link } from "../parts/Link";
import { ApplicationLink, OnlyOf } from "../parts/ApplicationLink";
import { OtherTime } from "../parts/Past";
import { Table, type Column } from "../parts/Table";
import { Waiting } from "../parts/Waiting";
import { matches } from "../rows";

const LIMIT = 500;

export function Calls(): JSX.Element {
  const { view, text } = useShared();
  const loaded = useData<Spans>(
    path("/api/v1/spans", {
      tenant: view.tenant,
      service_name: view.service,
      errors: view.failed || null,
      duration_ms_min: view.slower === null ? null : Math.ceil(view.slower),
      limit: LIMIT,
    }),
  );
  const rows = (loaded.data?.spans ?? []).filter((span) =>
    matches(view.filter, span.service_name, span.tenant, span.protocol, span.operation, span.resource, span.status, span.remote),
  );
  const columns: Column<Span>[] = [
    { id: "when", head: text("when"), numeric: true, value: (span) => span.start_unix_ns, cell: (span) => clock(span.start_unix_ns / 1e6) },
    {
      id: "interface",
      head: text("interface"),
      value: (span) => `${span.operation} ${span.resource}`,
      cell: (span) => (
        <>
          <Link to={{ ...view, page: "trace", id: span.trace_id }} class="name">
            <b>{span.operation}</b> {span.resource}
          </Link>
          <span class="under">
            <ApplicationLink of={span} /> · {span.protocol} {span.side === "client" ? `→ ${span.remote}` : ""}
          </span>
        </>
      ),
    },
    {
      id: "status",
      head: text("status"),
      value: (span) => span.status,
      cell: (span) => <Outcome of={span} />,
    },
    { id: "duration", head: text("duration"), numeric: true, value: (span) => span.duration_ns, cell: (span) => seconds(span.duration_ns / 1e9) },
    { id: "reason", head: text("reason"), wide: true, value: (span) => span.reason, cell: (span) => span.reason },
    {
      id: "instance",
      head: text("instance"),
      wide: true,
      value: (span) => span.k8s_pod_name || span.sandbox_id,
      cell: (span) => span.k8s_pod_name || span.sandbox_id,
    },
  ];
  return (
    <>
      <h1>
        {text("sampledCalls")} <OnlyOf />
      </h1>
      <OtherTime what="keptNow" />
      <CallFilter />
      {loaded.data === null ? (
        <Waiting error={loaded.error} />
      ) : rows.length === 0 ? (
        <Empty what={view.filter === "" ? "noCalls" : "noMatch"} hint={view.filter === "" ? "noCallsHint" : "noMatchHint"} />
      ) : (
        <Table
          caption={text("sampledCalls")}
          columns={columns}
          rows={rows}
          id={(span) => `${span.sandbox_id} ${span.start_unix_ns} ${span.duration_ns} ${span.operation}`}
          sort="-when"
          addressed
        />
      )}
    </>
  );
}
