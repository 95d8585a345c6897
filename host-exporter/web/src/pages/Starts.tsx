// How long sandboxes take to start: of one application, phase by phase and instance by instance; and of all applications.

import type { JSX } from "preact";
import { path, type Sandbox, type Starts } from "../api";
import { useShared } from "../context";
import { useData } from "../data";
import { clock, count, seconds } from "../format";
import { instance, quantiles } from "../parts/columns";
import { Empty } from "../parts/Empty";
import { Link } from "../parts/Link";
import { StartBar, StartLegend } from "../parts/StartBar";
import { Table, type Column } from "../parts/Table";
import { Waiting } from "../parts/Waiting";
import { key, matches } from "../rows";
import { ofPhase, parts, PHASES, SHOWN, time, whole, type Phase, type Times } from "../starts";
import { to } from "../view";

type Of = Starts["applications"][number];

export function StartsOf({ of }: { of: { tenant: string | null; service_name: string | null } }): JSX.Element {
  const { view, text } = useShared();
  const starts = useData<Starts>(path("/api/v1/starts", { ...of }));
  const sandboxes = useData<{ sandboxes: Sandbox[] }>(path("/api/v1/sandboxes", { ...of }));
  if (starts.data === null || sandboxes.data === null) return <Waiting error={starts.error ?? sandboxes.error} />;
  const rows = sandboxes.data.sandboxes.filter(({ start }) => whole((phase) => time(start, phase)) !== null);
  const phases = starts.data.applications[0]?.phases ?? [];
  if (rows.length === 0 && phases.length === 0) return <Empty what="noStarts" hint="noStartsHint" />;
  return (
    <>
      <StartLegend />
      {phases.length > 0 && <PhaseTable phases={phases} />}
      <h2>{text("instances")}</h2>
      <InstanceTable rows={rows.filter((row) => matches(view.filter, row.k8s_pod_name, row.sandbox_id, row.state))} />
      <p class="note">{text("startsNote")}</p>
    </>
  );
}

/** A phase that the pages do not know has no row. */
function PhaseTable({ phases }: { phases: readonly Times[] }): JSX.Element {
  const { text } = useShared();
  const rows = PHASES.flatMap((phase) => {
    const times = ofPhase(phases, phase);
    return times === null ? [] : [{ ...times, phase }];
  });
  const columns: Column<Times & { phase: Phase }>[] = [
    {
      id: "phase",
      head: text("untilMoment"),
      cell: ({ phase }) => (
        <span class="name">
          <i class={`dot ${SHOWN[phase].colour}`} aria-hidden="true" /> {text(SHOWN[phase].name)}
        </span>
      ),
    },
    { id: "sandboxes", head: text("sandboxes"), numeric: true, cell: (row) => count(row.sandboxes) },
    ...quantiles<Times & { phase: Phase }>((row, of) => row[`${of}_seconds`], []).map((column) => ({ ...column, value: undefined })),
  ];
  return <Table caption={text("starts")} columns={columns} rows={rows} id={(row) => row.phase} sort="" />;
}

function InstanceTable({ rows }: { rows: readonly Sandbox[] }): JSX.Element {
  const { text } = useShared();
  const all = (row: Sandbox): number | null => whole((phase) => time(row.start, phase));
  const longest = Math.max(0, ...rows.map((row) => all(row) ?? 0));
  const columns: Column<Sandbox>[] = [
    instance(text("instance")),
    { id: "created", head: text("created"), numeric: true, wide: true, value: (row) => row.created_unix_ms, cell: (row) => clock(row.created_unix_ms) },
    {
      id: "start",
      head: text("start"),
      cell: (row) => <StartBar parts={parts((phase) => time(row.start, phase))} longest={longest} />,
    },
    ...PHASES.map((phase): Column<Sandbox> => ({
      id: phase,
      head: text(SHOWN[phase].name),
      numeric: true,
      wide: phase !== "first_request",
      value: (row) => time(row.start, phase),
      cell: (row) => seconds(time(row.start, phase)),
    })),
  ];
  return <Table caption={text("instances")} columns={columns} rows={rows} id={(row) => row.sandbox_id} sort="-first_request" addressed />;
}

/** Applications whose sandboxes take longest until they serve. */
export function SlowestStarts({ starts }: { starts: Starts }): JSX.Element {
  const { view, text, viewer } = useShared();
  const rows = starts.applications.filter((row) => matches(view.filter, row.tenant, row.service_name));
  if (rows.length === 0) return starts.applications.length === 0 ? <Empty what="noStarts" hint="noStartsHint" /> : <Empty what="noMatch" hint="noMatchHint" />;
  const median = (row: Of, phase: Phase): number | null => ofPhase(row.phases, phase)?.p50_seconds ?? null;
  const longest = Math.max(0, ...rows.map((row) => whole((phase) => median(row, phase)) ?? 0));
  const columns: Column<Of>[] = [
    {
      id: "application",
      head: text("application"),
      value: (row) => row.service_name,
      cell: (row) => (
        <>
          <Link to={to(view, "application", { tenant: row.tenant, service: row.service_name, part: "starts" })} class="name">
            {row.service_name}
          </Link>
          {viewer.operator && <span class="under">{row.tenant}</span>}
        </>
      ),
    },
    {
      id: "sandboxes",
      head: text("sandboxes"),
      numeric: true,
      wide: true,
      value: (row) => Math.max(0, ...row.phases.map(({ sandboxes }) => sandboxes)),
      cell: (row) => count(Math.max(0, ...row.phases.map(({ sandboxes }) => sandboxes))),
    },
    {
      id: "medians",
      head: text("medians"),
      wide: true,
      cell: (row) => <StartBar parts={parts((phase) => median(row, phase))} longest={longest} />,
    },
    {
      id: "listen",
      head: text("firstListen"),
      numeric: true,
      value: (row) => median(row, "first_listen"),
      cell: (row) => seconds(median(row, "first_listen")),
    },
    ...quantiles<Of>((row, of) => ofPhase(row.phases, "first_request")?.[`${of}_seconds`] ?? null, ["p90"]).map((column) => ({
      ...column,
      head: `${text("firstRequest")} ${column.head}`,
    })),
  ];
  return (
    <>
      <StartLegend />
      <Table caption={text("starts")} columns={columns} rows={rows} id={key} sort="-p99" />
    </>
  );
}
