// All applications that the viewer may read: how many requests, how many failed, how long they took.

import type { JSX } from "preact";
import { path, type Applications, type Hour } from "../api";
import { useShared } from "../context";
import { useData } from "../data";
import { rate, ratio, share } from "../format";
import { VerdictChip } from "../parts/Chip";
import { quantiles } from "../parts/columns";
import { Empty } from "../parts/Empty";
import { Link } from "../parts/Link";
import { TimeNote } from "../parts/Past";
import { Spark } from "../parts/Spark";
import { Table, type Column } from "../parts/Table";
import { Waiting } from "../parts/Waiting";
import { aligned, applicationRows, matches, VERDICTS, type ApplicationRow } from "../rows";
import { ask, hasServer, isPast, SPARK_POINTS_MAX, timeOf } from "../past";
import { to } from "../view";

export function Overview(): JSX.Element {
  const { view, text, viewer } = useShared();
  const { query, ticks } = ask(view, viewer, hasServer(viewer) ? SPARK_POINTS_MAX : undefined);
  const hour = useData<Hour>(path("/api/v1/history", { ...query, merged: true }), ticks);
  const listing = useData<Applications>(path("/api/v1/applications", { instances: false }));
  if (hour.data === null || listing.data === null) return <Waiting error={hour.error ?? listing.error} />;
  const data = hour.data;
  const all = applicationRows(data, listing.data);
  if (all.length === 0) {
    return (
      <>
        <TimeNote />
        {isPast(timeOf(view, viewer)) ? <Empty what="noRequests" hint="noPastHint" /> : <Empty what="noApplications" hint="noApplicationsHint" />}
      </>
    );
  }
  // The order within one objective, and among those without.
  all.sort((a, b) => (b.errorShare ?? 0) - (a.errorShare ?? 0) || b.rate - a.rate);
  const rows = all.filter((row) => matches(view.filter, row.service_name, row.tenant, ...row.protocols));
  const columns: Column<ApplicationRow>[] = [
    {
      id: "application",
      head: text("application"),
      value: (row) => row.service_name,
      cell: (row) => (
        <>
          <Link to={to(view, "application", { tenant: row.tenant, service: row.service_name })} class="name">
            {row.service_name}
          </Link>
          {viewer.operator && <span class="under">{row.tenant}</span>}
        </>
      ),
    },
    { id: "protocol", head: text("protocol"), value: (row) => row.protocols.join(" "), cell: (row) => row.protocols.join(" "), wide: true },
    {
      id: "objective",
      head: text("objective"),
      value: (row) => VERDICTS.indexOf(row.verdict),
      cell: (row) => (row.side === "client" ? <span class="chip none">{text("called")}</span> : <VerdictChip of={row.verdict} />),
    },
    {
      id: "rate",
      head: text("rate"),
      numeric: true,
      value: (row) => row.rate,
      cell: (row) => (
        <span class="withspark">
          <Spark values={aligned(data, row.points, (point) => point.requests).map((value) => value ?? 0)} />
          <b>{rate(row.rate)}</b>
        </span>
      ),
    },
    {
      id: "errors",
      head: text("errors"),
      numeric: true,
      value: (row) => row.errorShare,
      cell: (row) => (
        <span class="withspark">
          <Spark bad values={aligned(data, row.points, (point) => ratio(point.errors, point.requests))} />
          <b>{share(row.errorShare)}</b>
        </span>
      ),
    },
    ...quantiles<ApplicationRow>((row, of) => row.total[`${of}_seconds`], ["p90"]),
  ];
  return (
    <>
      <h1>
        {text("applications")} <span class="count">{rows.length === all.length ? all.length : `${rows.length} ${text("of")} ${all.length}`}</span>
      </h1>
      <TimeNote except="objectivesNow" />
      {rows.length === 0 ? (
        <Empty what="noMatch" hint="noMatchHint" />
      ) : (
        <Table caption={text("applications")} columns={columns} rows={rows} id={(row) => row.id} sort="objective" addressed />
      )}
    </>
  );
}
